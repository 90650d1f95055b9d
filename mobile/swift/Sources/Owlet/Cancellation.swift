import OwletFFI

/// Runs `work` under a token that the cancellation of the calling task cancels, from whatever thread cancels it.
///
/// Returns when Rust has ended its unit of work, never before: whoever goes on after a cancelled call finds the session idle.
/// The caller sees `CancellationError` where its own task was cancelled, otherwise `OwletError`.
func cancellable<Result: Sendable>(
    timeLimit: Duration? = nil,
    appErrors: AppErrors? = nil,
    _ work: @Sendable (CancelToken) async throws -> Result
) async throws -> Result {
    let token = timeLimit.map { CancelToken.afterMs(milliseconds: $0.milliseconds) } ?? CancelToken()
    do {
        return try await withTaskCancellationHandler {
            try await work(token)
        } onCancel: {
            token.cancel()
        }
    } catch {
        throw translated(error, appErrors)
    }
}

/// Runs a short call, its errors translated.
func translating<Result>(_ call: () throws -> Result) throws -> Result {
    do { return try call() } catch { throw translated(error, nil) }
}

/// Runs an asynchronous call that takes no token, its errors translated.
func translating<Result: Sendable>(_ call: @Sendable () async throws -> Result) async throws -> Result {
    do { return try await call() } catch { throw translated(error, nil) }
}

extension Duration {
    /// Whole milliseconds, 0 for what has gone by already.
    fileprivate var milliseconds: UInt64 {
        let (seconds, attoseconds) = components
        return seconds < 0 ? 0 : UInt64(seconds) * 1000 + UInt64(max(attoseconds, 0) / 1_000_000_000_000_000)
    }
}

/// What the caller shall see of an error of the generated bindings.
func translated(_ error: any Error, _ appErrors: AppErrors?) -> any Error {
    guard let error = error as? OwletFFI.OwletError else { return error }
    let translated = OwletError(error, appErrors)
    return translated.kind == .cancelled && Task.isCancelled ? CancellationError() : translated
}
