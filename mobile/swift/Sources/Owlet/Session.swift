import Foundation
import OwletFFI

/// What happens while a question is answered.
public enum AnswerEvent: Sendable {
    /// The next piece of what the model thinks, its tags left out.
    case thinking(String)
    /// The next piece of the answer.
    case answer(String)
    /// The last event: the whole answer.
    case done(Turn)
}

/// A conversation with a thread of its own, on which all answers are computed. What was computed of it, pictures included, is not
/// computed again.
///
/// Safe to use from several tasks: calls wait for each other in the order in which they came. A question that fails or is
/// cancelled leaves the conversation as it was before.
public final class Session: Sendable {
    private let ffi: OwletFFI.Session
    private let queue = CallQueue()

    private init(_ ffi: OwletFFI.Session) { self.ffi = ffi }

    /// Begins a conversation with `model`, which it keeps in memory.
    ///
    /// - Throws: `OwletError` of the kind `.invalidInput` for options out of range, `.limit` where it does not fit the memory budget,
    ///   `.mismatch` for adapters of another model.
    public static func open(
        _ model: Model, options: SessionOptions = SessionOptions(), adapters: [ActiveAdapter] = []
    ) async throws -> Session {
        let adapters = adapters.map(\.ffi)
        return try await cancellable { token in
            Session(try await OwletFFI.Session.open(model: model.ffi, options: options, adapters: adapters, cancel: token))
        }
    }

    /// Goes on with a conversation that was saved, under the same model and adapters. Its `conversation` options come from the file.
    ///
    /// - Throws: `OwletError` of the kind `.notFound`, `.invalidFile`, `.mismatch` for another model or other adapters; as `open`.
    public static func restore(
        _ url: URL, model: Model, options: SessionOptions = SessionOptions(), adapters: [ActiveAdapter] = []
    ) async throws -> Session {
        let adapters = adapters.map(\.ffi)
        return try await cancellable { token in
            Session(
                try await OwletFFI.Session.restore(
                    model: model.ffi, path: url.filePath, options: options, adapters: adapters, cancel: token))
        }
    }

    /// Asks a question, or tells what a tool found. The answer begins to be computed now, or when the calls before it are done; the
    /// stream's last event is `.done`.
    ///
    /// Whoever stops iterating, or whose task is cancelled, cancels the answer: within a token of it, `docs/cancellation.md` has the
    /// other bounds.
    ///
    /// - Parameter timeLimit: Ends the answer with an `OwletError` of the kind `.cancelled` when so much time has gone by since its turn
    ///   came.
    /// - Throws: While iterating, `OwletError` of the kind `.contextOverflow` for what does not fit, `.unsupported` for pictures
    ///   without a projector, `.invalidInput` or `.backend`.
    public func ask(_ message: Message, timeLimit: Duration? = nil) -> EventStream<AnswerEvent> {
        let place = queue.reserve()
        return EventStream { [ffi, queue] send in
            try await queue.run(place) {
                try await cancellable(timeLimit: timeLimit) { token in
                    .done(try await ffi.ask(message: message.ffi, sink: SinkBridge(send), cancel: token))
                }
            }
        }
    }

    /// Asks `text` about `images`.
    public func ask(_ text: String, images: [Picture] = [], timeLimit: Duration? = nil) -> EventStream<AnswerEvent> {
        ask(Message(text, images: images), timeLimit: timeLimit)
    }

    /// Adds to what was said without asking anything: a history that the app kept elsewhere, or an example.
    public func push(_ message: Message) async throws {
        try await queue.run { [ffi] in
            try await cancellable { token in try await ffi.push(message: message.ffi, cancel: token) }
        }
    }

    /// Puts `adapters` in place of those before, between two answers; none for the model alone.
    ///
    /// - Throws: `OwletError` of the kind `.mismatch` for adapters of another model.
    public func setAdapters(_ adapters: [ActiveAdapter]) async throws {
        let adapters = adapters.map(\.ffi)
        try await queue.run { [ffi] in try await translating { try await ffi.setAdapters(adapters: adapters) } }
    }

    /// Goes on by other options from the next question on.
    public func setOptions(_ options: ConversationOptions) async throws {
        try await queue.run { [ffi] in try await translating { try await ffi.setOptions(options: options) } }
    }

    /// Writes the whole conversation to a file, in place of an older one. Pictures are in it as the model sees them.
    public func save(to url: URL) async throws {
        try await queue.run { [ffi] in try await translating { try await ffi.save(path: url.filePath) } }
    }

    /// A second conversation that goes on from here, without computing anything again. Both take turns.
    ///
    /// - Throws: `OwletError` of the kind `.limit` where there are `SessionOptions.nConversations` already.
    public func fork() async throws -> Session {
        try await queue.run { [ffi] in try await translating { Session(try await ffi.fork()) } }
    }

    /// What was said up to the last call that is done, the instructions apart.
    public var messages: [ChatMessage] { ffi.messages() }

    /// Places of the context that are computed, after the last call that is done.
    public var tokenCount: Int { Int(ffi.nTokens()) }
}

extension EventStream<AnswerEvent> {
    /// Waits for the whole answer.
    public func turn() async throws -> Turn {
        for try await case .done(let turn) in self { return turn }
        throw OwletError.takenAlready
    }
}

private final class SinkBridge: EventSink {
    private let send: @Sendable (AnswerEvent) -> Void

    init(_ send: @escaping @Sendable (AnswerEvent) -> Void) { self.send = send }

    func onEvent(event: Event) -> Bool {
        switch event {
        case .thinking(let text): send(.thinking(text))
        case .answer(let text): send(.answer(text))
        }
        // Stopping is the token's affair: an answer that ends here would stay in the conversation.
        return true
    }
}
