import Foundation
import Owlet
import Testing

/// The embedded model, loaded once for all tests.
enum Fixtures {
    /// The folder `models` of the repository.
    static let models = URL(filePath: ProcessInfo.processInfo.environment["OWLET_MODELS"] ?? "../../models")
    static let weights = models.appending(path: "owlet-tiny-F16.gguf")
    static let projector = models.appending(path: "mmproj-owlet-tiny-F16.gguf")

    private static let loading = Task { try await Model.load(weights, options: options) }

    static var options: ModelOptions { ModelOptions(mmproj: projector.path()) }

    static func model() async throws -> Model { try await loading.value }

    /// One thread: tests share the processor with each other. Greedy answers of few tokens.
    static func sessionOptions(maxTokens: UInt32 = 24) -> SessionOptions {
        let answer = AnswerOptions(maxNewTokens: maxTokens, temperature: 0)
        return SessionOptions(nThreads: 1, conversation: ConversationOptions(answer: answer))
    }

    static func session(maxTokens: UInt32 = 24) async throws -> Session {
        try await Session.open(model(), options: sessionOptions(maxTokens: maxTokens))
    }

    /// A session whose answers are at least a thousand letters long, to be stopped.
    static func verboseSession() async throws -> Session {
        var options = sessionOptions(maxTokens: 1500)
        options.conversation.answer.constraint = .lark(grammar: "start: /[a-z ]{1000}/")
        options.conversation.answer.thinkingBudget = 0
        return try await Session.open(model(), options: options)
    }

    /// A red square on white, as a bitmap file of Windows: rows from the bottom, blue first, no padding.
    static func bitmapFile(side: Int = 64) -> Data {
        var file = Data("BM".utf8)
        func append(_ value: Int, bytes: Int) {
            for byte in 0..<bytes { file.append(UInt8(truncatingIfNeeded: value >> (8 * byte))) }
        }
        append(54 + 3 * side * side, bytes: 4)
        append(0, bytes: 4)
        append(54, bytes: 4)
        for (value, bytes) in [(40, 4), (side, 4), (side, 4), (1, 2), (24, 2), (0, 4), (0, 4), (0, 4), (0, 4), (0, 4), (0, 4)] {
            append(value, bytes: bytes)
        }
        for y in 0..<side {
            for x in 0..<side {
                let isInside = (side / 4..<3 * side / 4).contains(x) && (side / 4..<3 * side / 4).contains(y)
                file.append(contentsOf: isInside ? [0, 0, 255] : [255, 255, 255])
            }
        }
        return file
    }

    static func picture() throws -> Picture { try Picture(data: bitmapFile()) }

    /// A folder of its own, removed when `use` is done.
    static func withFolder<Result>(_ use: (URL) async throws -> Result) async throws -> Result {
        let folder = FileManager.default.temporaryDirectory.appending(path: "owlet-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        return try await use(folder)
    }
}

/// The error that `work` throws, which must be Owlet's.
func owletError(
    sourceLocation: SourceLocation = #_sourceLocation, _ work: () async throws -> Void
) async throws -> OwletError {
    do {
        try await work()
    } catch let error as OwletError {
        return error
    }
    return try #require(nil as OwletError?, "no error was thrown", sourceLocation: sourceLocation)
}

/// A value that closures on several threads change.
final class Shared<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var stored: Value

    init(_ value: Value) { stored = value }

    var value: Value { lock.withLock { stored } }
    func change(_ body: (inout Value) -> Void) { lock.withLock { body(&stored) } }
}
