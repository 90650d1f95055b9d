// Not compiled where Owlet is developed, which has no frameworks of Apple's.
#if canImport(CoreVideo)
import CoreVideo
import Foundation
import OwletFFI

extension Picture {
    /// Copies a frame of the camera. Its format must be `kCVPixelFormatType_32BGRA`, which capture sessions are asked for by
    /// `videoSettings`.
    ///
    /// - Throws: `OwletError` of the kind `.unsupported` for another format.
    public convenience init(_ frame: CVPixelBuffer, orientation: Orientation = .upright) throws {
        let format = CVPixelBufferGetPixelFormatType(frame)
        guard format == kCVPixelFormatType_32BGRA else {
            throw OwletError(kind: .unsupported, message: "cannot read the frame: got pixels of format \(format), needed 32BGRA")
        }
        CVPixelBufferLockBaseAddress(frame, .readOnly)
        defer { CVPixelBufferUnlockBaseAddress(frame, .readOnly) }
        let bytesPerRow = CVPixelBufferGetBytesPerRow(frame)
        let height = CVPixelBufferGetHeight(frame)
        guard let base = CVPixelBufferGetBaseAddress(frame) else {
            throw OwletError(kind: .invalidInput, message: "cannot read the frame: it has no memory that the processor sees")
        }
        try self.init(
            pixels: Data(bytesNoCopy: base, count: bytesPerRow * height, deallocator: .none),
            width: CVPixelBufferGetWidth(frame), height: height, bytesPerRow: bytesPerRow, format: .bgra8,
            orientation: orientation)
    }
}
#endif
