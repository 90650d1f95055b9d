/// The events of a piece of work that has begun, in order, the result last. To be iterated once.
///
/// Whoever stops iterating (`break`, a thrown error, a released stream) cancels the work. Where the iterating task is
/// cancelled, `next()` waits until the work has ended, which takes a bounded time, and throws `CancellationError`.
/// Events wait for a slow consumer without limit; the work does not wait.
public struct EventStream<Event: Sendable>: AsyncSequence, Sendable {
    public typealias Element = Event

    private let events: AsyncThrowingStream<Event, any Error>
    private let lifetime: Lifetime

    /// Starts `run` with a function that takes its events; what it returns is the last one. It is cancelled as a task is.
    init(_ run: @escaping @Sendable (@escaping @Sendable (Event) -> Void) async throws -> Event) {
        let (events, continuation) = AsyncThrowingStream.makeStream(of: Event.self, throwing: (any Error).self)
        self.events = events
        let work = Task {
            do {
                continuation.yield(try await run { continuation.yield($0) })
                continuation.finish()
            } catch {
                continuation.finish(throwing: error)
            }
        }
        lifetime = Lifetime(work)
    }

    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(events: events.makeAsyncIterator(), stream: lifetime)
    }

    public struct AsyncIterator: AsyncIteratorProtocol {
        private var events: AsyncThrowingStream<Event, any Error>.AsyncIterator
        // The stream may be released before its iterator, and the iterator before a stream that somebody keeps.
        private let stream: Lifetime
        private let iteration: Lifetime

        fileprivate init(events: AsyncThrowingStream<Event, any Error>.AsyncIterator, stream: Lifetime) {
            self.events = events
            self.stream = stream
            iteration = Lifetime(stream.work)
        }

        public mutating func next() async throws -> Event? {
            if let event = try await events.next() { return event }
            // To a cancelled task the stream looks finished at once.
            if Task.isCancelled {
                iteration.work.cancel()
                await iteration.work.value
                throw CancellationError()
            }
            return nil
        }
    }

    /// Cancels the work when nobody can see its events any more. Work that is done does not notice.
    fileprivate final class Lifetime: Sendable {
        let work: Task<Void, Never>
        init(_ work: Task<Void, Never>) { self.work = work }
        deinit { work.cancel() }
    }
}
