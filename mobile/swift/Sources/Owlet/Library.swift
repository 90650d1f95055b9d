import Foundation
import OwletFFI

/// What concerns the library as a whole, and what can be told without loading a model.
public enum OwletLibrary {
    /// Version of the native library.
    public static var version: String { OwletFFI.version() }

    /// The devices of this build and machine, the preferred ones first.
    ///
    /// - Throws: `OwletError` of the kind `.backend`.
    public static func devices() throws -> [Device] { try translating(OwletFFI.devices) }

    /// Hands what Owlet and llama.cpp log from now on, up to `level`, to `sink`, in place of the one before. It is called from any
    /// thread and must not call Owlet. Prompts, pictures and answers are never logged.
    ///
    /// - Throws: `OwletError` of the kind `.busy` where a Rust program with its own log holds this library.
    public static func setLog(
        _ level: LogLevel, _ sink: @escaping @Sendable (_ level: LogLevel, _ target: String, _ text: String) -> Void
    ) throws {
        try translating { try setLogSink(level: level, sink: LogBridge(sink)) }
    }

    /// Hands nothing on any more.
    public static func clearLog() { clearLogSink() }

    /// The memory that sessions of the model at `url` will take, with the image projector at `projector` if they see pictures.
    /// Read from the headers of the files.
    ///
    /// - Throws: `OwletError` of the kind `.limit` with the numbers, and what would fit, where there is a budget and nothing fits.
    public static func planInference(
        _ url: URL, projector: URL? = nil, request: InferenceRequest = InferenceRequest()
    ) async throws -> InferencePlan {
        try await translating {
            try await OwletFFI.planInference(path: url.filePath, mmproj: projector?.filePath, request: request)
        }
    }

    /// The memory that training over the model at `url` will take, with the image projector at `projector` if its samples have
    /// pictures.
    ///
    /// - Throws: As `planInference`.
    public static func planAdaptation(
        _ url: URL, projector: URL? = nil, options: AdaptOptions = AdaptOptions()
    ) async throws -> AdaptationPlan {
        try await translating {
            try await OwletFFI.planAdaptation(path: url.filePath, mmproj: projector?.filePath, options: options)
        }
    }
}

private final class LogBridge: LogSink {
    private let sink: @Sendable (LogLevel, String, String) -> Void

    init(_ sink: @escaping @Sendable (LogLevel, String, String) -> Void) { self.sink = sink }

    func onLog(level: LogLevel, target: String, text: String) { sink(level, target, text) }
}
