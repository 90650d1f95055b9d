import Foundation
import Owlet
import Testing

@Suite struct PictureTests {
    @Test func aFileIsDecoded() throws {
        let picture = try Picture(data: Fixtures.bitmapFile(side: 48))
        #expect((picture.width, picture.height) == (48, 48))
        #expect(picture.description == "Picture(48x48)")
    }

    @Test func aFileIsRead() async throws {
        try await Fixtures.withFolder { folder in
            let file = folder.appending(path: "a picture with spaces.bmp")
            try Fixtures.bitmapFile().write(to: file)
            #expect(try Picture(contentsOf: file).width == 64)
        }
    }

    @Test func pixelsHavePaddedRowsAndAreTurned() throws {
        // 3 x 2 pixels in rows of 16 bytes, the last of which ends behind its pixels.
        let picture = try Picture(
            pixels: Data(count: 16 + 12), width: 3, height: 2, bytesPerRow: 16, format: .bgra8, isPremultiplied: true,
            orientation: .rotate90, alpha: .overWhite)
        #expect((picture.width, picture.height) == (2, 3))
    }

    @Test(arguments: [
        (ErrorKind.invalidFile, Data("no picture".utf8)), (.invalidFile, Data()),
        (.invalidFile, Fixtures.bitmapFile().prefix(1000)),
    ])
    func whatIsNoPictureIsRefused(kind: ErrorKind, file: Data) async throws {
        #expect(try await owletError { _ = try Picture(data: file) }.kind == kind)
    }

    @Test(arguments: [(0, 2, 0), (3, -1, 0), (3, 2, 5), (3, 2, -5), (1 << 40, 1 << 40, 0), (3, 3, 0)])
    func numbersThatDoNotFitTheBytesAreRefused(width: Int, height: Int, bytesPerRow: Int) async throws {
        let error = try await owletError {
            _ = try Picture(pixels: Data(count: 18), width: width, height: height, bytesPerRow: bytesPerRow, format: .rgb8)
        }
        #expect([.invalidInput, .limit].contains(error.kind), "\(error)")
    }

    @Test func aMissingFileIsNamed() async throws {
        let error = try await owletError { _ = try Picture(contentsOf: URL(filePath: "/nowhere/picture.png")) }
        #expect(error.kind == .notFound)
        #expect(error.place?.contains("/nowhere/picture.png") == true)
        #expect(error.localizedDescription == error.message)
    }
}
