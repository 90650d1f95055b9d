import Foundation
import OwletFFI

/// What happens while a job runs.
public enum AdaptEvent: Sendable {
    /// How far it is.
    case progress(AdaptProgress)
    /// The last event: what the run came to.
    case done(AdaptReport)
}

/// A training run with a thread of its own.
///
/// What it has done is kept in its folder, by checkpoints and whenever it is paused, cancelled or released: a job that is opened
/// with the same folder, options, data and reward goes on from there, to the same adapter as if it had never stopped.
public final class AdaptJob: Sendable {
    private let ffi: OwletFFI.AdaptJob
    private let appErrors: AppErrors

    private init(_ ffi: OwletFFI.AdaptJob, _ appErrors: AppErrors) {
        self.ffi = ffi
        self.appErrors = appErrors
    }

    /// Prepares training over `model`.
    ///
    /// - Parameters:
    ///   - reward: What answers are worth; without one, Owlet's own rules for the problem types tell.
    ///   - folder: For checkpoints and `metrics.jsonl`; without one nothing is kept.
    ///   - start: An adapter file to begin with.
    /// - Throws: `OwletError` of the kind `.invalidInput` for options out of range, `.contextOverflow` for a question that is too
    ///   long, `.unsupported` for a model that cannot be trained, `.limit` where it does not fit the memory budget, `.busy` where
    ///   another job has the folder, `.mismatch` for a folder of another run.
    public static func open(
        _ model: Model,
        data: Dataset,
        reward: (any Reward)? = nil,
        options: AdaptOptions = AdaptOptions(),
        folder: URL? = nil,
        begin: AdaptBegin = .resumeIfAny,
        start: URL? = nil
    ) async throws -> AdaptJob {
        let appErrors = AppErrors()
        let bridge = reward.map { RewardBridge($0, appErrors) }
        return try await cancellable(appErrors: appErrors) { token in
            let ffi = try await OwletFFI.AdaptJob.open(
                model: model.ffi, data: data.ffi, options: options, reward: bridge, folder: folder?.filePath, begin: begin,
                start: start?.filePath, cancel: token)
            return AdaptJob(ffi, appErrors)
        }
    }

    /// Trains to the last step. It begins now; the stream's last event is `.done`. Whoever stops iterating, or whose task is
    /// cancelled, stops the training, after a checkpoint. A run that failed or was stopped goes on when this is called again.
    ///
    /// - Throws: While iterating, `OwletError` of the kind `.callback` with what the reward threw as `underlying`, `.diverged`, or
    ///   `.busy` where it runs already.
    public func run() -> EventStream<AdaptEvent> {
        EventStream { [ffi, appErrors] send in
            try await cancellable(appErrors: appErrors) { token in
                .done(try await ffi.run(sink: ProgressBridge(send), cancel: token))
            }
        }
    }

    /// Has the job rest, within a fraction of a second, and write a checkpoint then: for apps that go to the background. `run` goes
    /// on waiting.
    public func pause() { ffi.pause() }

    /// Has the job go on.
    public func resume() { ffi.resume() }

    /// What it is doing.
    public var state: AdaptState { ffi.state() }

    /// Steps done, those of earlier processes included. Waits for the end of the running slice of work.
    public var stepsDone: Int {
        get async throws { try await translating { [ffi] in Int(try await ffi.nStepsDone()) } }
    }

    /// Writes the adapter as it is after the last complete step, as a GGUF file that llama.cpp loads too.
    public func writeAdapter(to url: URL) async throws {
        try await translating { [ffi] in try await ffi.writeAdapter(path: url.filePath) }
    }

    /// The same without a file, for sessions of the model: `session.setAdapters([ActiveAdapter(job.adapter())])`.
    public func adapter() async throws -> Adapter {
        try await translating { [ffi] in Adapter(try await ffi.adapter()) }
    }

    /// Asks every sample of `data` once, greedily, with the adapter as it is after the last complete step, and scores the answers
    /// by the job's reward. Training waits meanwhile.
    public func evaluate(_ data: Dataset) async throws -> EvaluationReport {
        try await cancellable(appErrors: appErrors) { [ffi] token in
            try await ffi.evaluate(data: data.ffi, cancel: token)
        }
    }
}

extension EventStream<AdaptEvent> {
    /// Waits for the end of the run.
    @discardableResult
    public func report() async throws -> AdaptReport {
        for try await case .done(let report) in self { return report }
        throw OwletError.takenAlready
    }
}

private final class ProgressBridge: ProgressSink {
    private let send: @Sendable (AdaptEvent) -> Void

    init(_ send: @escaping @Sendable (AdaptEvent) -> Void) { self.send = send }

    func onProgress(progress: OwletFFI.Progress) { send(.progress(progress)) }
}
