import Foundation

/// Lets the calls of a session through one after the other, in the order in which they came.
///
/// The session's thread would do so too, but a call that waits there learns that it was cancelled only when its turn comes, which
/// an answer of minutes may put off. Here it leaves at once.
final class CallQueue: @unchecked Sendable {
    /// A place in the queue. Its continuation is guarded by the queue's lock.
    final class Place: @unchecked Sendable {
        fileprivate var continuation: CheckedContinuation<Void, any Error>?
    }

    private let lock = NSLock()
    /// The first one has its turn.
    private var places: [Place] = []

    /// The last place. Whoever takes it must `run`, even when cancelled.
    func reserve() -> Place {
        let place = Place()
        lock.withLock { places.append(place) }
        return place
    }

    /// Runs `call` when it is its turn. Throws `CancellationError` when the task is cancelled before that.
    func run<Result: Sendable>(
        _ place: Place? = nil, _ call: @Sendable () async throws -> Result
    ) async throws -> Result {
        let place = place ?? reserve()
        defer { leave(place) }
        try await turn(of: place)
        return try await call()
    }

    private func turn(of place: Place) async throws {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let answer: Swift.Result<Void, any Error>? = lock.withLock {
                    // The handler below came too early to find the continuation.
                    if Task.isCancelled { return .failure(CancellationError()) }
                    if places.first === place { return .success(()) }
                    place.continuation = continuation
                    return nil
                }
                if let answer { continuation.resume(with: answer) }
            }
        } onCancel: {
            take(place)?.resume(throwing: CancellationError())
        }
    }

    private func leave(_ place: Place) {
        let next = lock.withLock {
            places.removeAll { $0 === place }
            return places.first
        }
        if let next { take(next)?.resume() }
    }

    /// Gives away the continuation of `place`, which is resumed once.
    private func take(_ place: Place) -> CheckedContinuation<Void, any Error>? {
        lock.withLock {
            defer { place.continuation = nil }
            return place.continuation
        }
    }
}
