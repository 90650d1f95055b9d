import Foundation
import OwletFFI

/// A decoded, upright picture, for any number of questions. (Not `Image`, which is SwiftUI's.)
public final class Picture: Sendable {
    let ffi: OwletFFI.Image

    private init(_ ffi: OwletFFI.Image) { self.ffi = ffi }

    /// Decodes `file`, the bytes of a PNG, JPEG, WebP, GIF or BMP file, and turns it upright by its EXIF data. Takes a moment:
    /// not for the main actor.
    ///
    /// - Throws: `OwletError` of the kind `.invalidFile` for bytes that are no such file, `.limit` for too many pixels.
    public convenience init(data file: Data, alpha: Alpha = .drop) throws {
        self.init(try translating { try OwletFFI.Image.fromBytes(bytes: file, alpha: alpha) })
    }

    /// Reads and decodes the file at `url`.
    public convenience init(contentsOf url: URL, alpha: Alpha = .drop) throws {
        self.init(try translating { try OwletFFI.Image.open(path: url.filePath, alpha: alpha) })
    }

    /// Takes pixels that the app has decoded, which are copied.
    ///
    /// - Parameters:
    ///   - pixels: Rows from the top. Bytes behind the last pixel of the last row may be missing.
    ///   - bytesPerRow: Bytes from the start of a row to that of the next one; 0 for rows without padding.
    ///   - isPremultiplied: Colours are multiplied by alpha already, as in the bitmaps of Core Graphics.
    /// - Throws: `OwletError` of the kind `.invalidInput` where the numbers do not fit the bytes.
    public convenience init(
        pixels: Data,
        width: Int,
        height: Int,
        bytesPerRow: Int = 0,
        format: PixelFormat,
        isPremultiplied: Bool = false,
        orientation: Orientation = .upright,
        alpha: Alpha = .drop
    ) throws {
        guard let columns = UInt32(exactly: width), let rows = UInt32(exactly: height),
            let stride = UInt64(exactly: bytesPerRow)
        else {
            let got = "\(width) x \(height) pixels, \(bytesPerRow) bytes a row"
            throw OwletError(kind: .invalidInput, message: "cannot take the pixels: got \(got)")
        }
        let raw = RawPixels(
            bytes: pixels, width: columns, height: rows, format: format, stride: stride, isPremultiplied: isPremultiplied,
            orientation: orientation)
        self.init(try translating { try OwletFFI.Image.fromPixels(pixels: raw, alpha: alpha) })
    }

    /// Pixels per row, upright.
    public var width: Int { Int(ffi.width()) }

    /// Number of rows, upright.
    public var height: Int { Int(ffi.height()) }
}

extension Picture: CustomStringConvertible {
    /// Its size; never what it shows.
    public var description: String { "Picture(\(width)x\(height))" }
}

extension URL {
    /// The path of a file URL as the operating system takes it.
    var filePath: String { path(percentEncoded: false) }
}
