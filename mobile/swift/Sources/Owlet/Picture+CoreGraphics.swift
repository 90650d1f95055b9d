// Not compiled where Owlet is developed, which has no frameworks of Apple's.
#if canImport(CoreGraphics)
import CoreGraphics
import Foundation
import OwletFFI

extension Picture {
    /// Takes the pixels of a Core Graphics image, drawn into 8-bit sRGB. It holds no EXIF data: what a photo library says of
    /// the picture's orientation goes into `orientation`.
    ///
    /// - Throws: `OwletError` of the kind `.invalidInput` for an empty image.
    public convenience init(_ image: CGImage, orientation: Orientation = .upright, alpha: Alpha = .drop) throws {
        let bytesPerRow = 4 * image.width
        var pixels = Data(count: bytesPerRow * image.height)
        let isDrawn = pixels.withUnsafeMutableBytes { bytes in
            let context = CGContext(
                data: bytes.baseAddress, width: image.width, height: image.height, bitsPerComponent: 8, bytesPerRow: bytesPerRow,
                space: CGColorSpace(name: CGColorSpace.sRGB) ?? CGColorSpaceCreateDeviceRGB(),
                bitmapInfo: CGImageAlphaInfo.premultipliedLast.rawValue)
            context?.draw(image, in: CGRect(x: 0, y: 0, width: image.width, height: image.height))
            return context != nil
        }
        guard isDrawn else {
            throw OwletError(kind: .invalidInput, message: "cannot draw the image: \(image.width) x \(image.height) pixels")
        }
        try self.init(
            pixels: pixels, width: image.width, height: image.height, bytesPerRow: bytesPerRow, format: .rgba8,
            isPremultiplied: true, orientation: orientation, alpha: alpha)
    }
}
#endif

// Its own import: Image I/O names orientations, Core Graphics does not.
#if canImport(ImageIO)
import ImageIO

extension Orientation {
    /// The orientation of a property list of Image I/O.
    public init(_ orientation: CGImagePropertyOrientation) {
        switch orientation {
        case .up: self = .upright
        case .upMirrored: self = .flipHorizontal
        case .down: self = .rotate180
        case .downMirrored: self = .flipVertical
        case .leftMirrored: self = .transpose
        case .right: self = .rotate90
        case .rightMirrored: self = .transverse
        case .left: self = .rotate270
        }
    }
}
#endif
