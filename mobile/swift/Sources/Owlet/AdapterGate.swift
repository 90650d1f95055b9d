import Foundation
import OwletFFI

/// The adapters of one purpose of the app, in a folder: one that is live, those before it, a candidate. Only a candidate that
/// answered held-out samples better goes live, and the one before can come back.
///
/// The folder is this object's own as long as it is there; `live(in:)` is for parts of an app that only use the adapter.
public final class AdapterGate: Sendable {
    private let ffi: OwletFFI.AdapterGate

    /// The gate in `folder`, which is created. A live adapter whose file is damaged gives way to the one before.
    ///
    /// - Throws: `OwletError` of the kind `.invalidInput` for a rule out of range, `.busy` where another object or process has the
    ///   folder, `.invalidFile` or `.unsupported` for a folder of something else.
    public init(folder: URL, rule: GateRule = GateRule()) throws {
        ffi = try translating { try OwletFFI.AdapterGate.open(folder: folder.filePath, rule: rule) }
    }

    /// The file of the adapter that is live in the gate at `folder`; `nil` where the model alone is live or there is no gate. Works
    /// beside an `AdapterGate` that has the folder.
    public static func live(in folder: URL) throws -> URL? {
        try translating { try activeAdapter(folder: folder.filePath) }.map { URL(filePath: $0) }
    }

    /// Files of live adapters that were found damaged when the gate was opened.
    public var damaged: [URL] { ffi.damaged().map { URL(filePath: $0) } }

    /// Has the adapter in the file `candidate`, and what is live now, answer the held-out samples, and compares them sample by
    /// sample. One that passes waits for `activate()`. Stopped by cancelling the task.
    ///
    /// - Parameters:
    ///   - reward: What answers are worth; without one, Owlet's own rules for the problem types tell.
    ///   - options: Lengths, suffix, threads and sessions; those of the job.
    /// - Throws: `OwletError` of the kind `.invalidInput` for fewer samples than the rule wants, `.mismatch` for an adapter of
    ///   another model, `.invalidFile` for a damaged one, `.callback` with what the reward threw as `underlying`.
    public func consider(
        _ candidate: URL,
        model: Model,
        heldOut: Dataset,
        reward: (any Reward)? = nil,
        options: AdaptOptions = AdaptOptions()
    ) async throws -> Verdict {
        let appErrors = AppErrors()
        let bridge = reward.map { RewardBridge($0, appErrors) }
        return try await cancellable(appErrors: appErrors) { [ffi] token in
            try await ffi.consider(
                candidate: candidate.filePath, model: model.ffi, heldOut: heldOut.ffi, options: options, reward: bridge,
                cancel: token)
        }
    }

    /// The accepted candidate goes live, all at once; what was live before is kept. Gives its file.
    ///
    /// - Throws: `OwletError` of the kind `.notFound` where no candidate waits.
    @discardableResult
    public func activate() async throws -> URL {
        try await translating { [ffi] in URL(filePath: try await ffi.activate()) }
    }

    /// The adapter before goes live again, or the model alone where there is none (`nil`).
    ///
    /// - Throws: `OwletError` of the kind `.notFound` where the model alone is live.
    @discardableResult
    public func rollback() async throws -> URL? {
        try await translating { [ffi] in try await ffi.rollback().map { URL(filePath: $0) } }
    }

    /// The file of the live adapter; `nil` where the model alone is live.
    public var active: URL? {
        get async throws { try await translating { [ffi] in try await ffi.active().map { URL(filePath: $0) } } }
    }

    /// Whether a candidate was accepted and waits.
    public var hasCandidate: Bool {
        get async throws { try await translating { [ffi] in try await ffi.hasCandidate() } }
    }
}
