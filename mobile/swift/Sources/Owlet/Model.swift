import Foundation
import OwletFFI

/// Weights, vocabulary and image projector of a model, once in memory for any number of sessions and jobs.
public final class Model: Sendable {
    let ffi: OwletFFI.Model

    private init(_ ffi: OwletFFI.Model) { self.ffi = ffi }

    /// Loads the GGUF file at `url` and its image projector, the one beside it unless `options.mmproj` names another. Cancelling
    /// the task stops the loading.
    ///
    /// - Parameter progress: Called with 0...1 on a thread of Owlet's. What it throws ends the loading.
    /// - Throws: `OwletError` of the kind `.notFound`, `.io`, `.invalidFile`, `.unsupported`, `.mismatch` (the projector is another
    ///   model's), `.limit` or `.backend`.
    public static func load(
        _ url: URL,
        options: ModelOptions = ModelOptions(),
        progress: (@Sendable (_ fraction: Float) throws -> Void)? = nil
    ) async throws -> Model {
        let appErrors = AppErrors()
        let watcher = progress.map { WatcherBridge($0, appErrors) }
        return try await cancellable(appErrors: appErrors) { token in
            Model(try await OwletFFI.Model.load(path: url.filePath, options: options, watcher: watcher, cancel: token))
        }
    }

    /// What the model is.
    public var info: ModelInfo { ffi.info() }

    /// Where its layers are, and why not on a GPU.
    public var placement: Placement { ffi.placement() }

    /// The calls of tools in `answer`, as the model's chat template teaches it to write them. Turns of a session that was given
    /// tools have them already.
    public func toolCalls(in answer: String) -> ToolCalls { ffi.toolCalls(answer: answer) }

    /// Tokens that a message of `text` and `images` takes in a context, the template's own included.
    public func countTokens(_ text: String, images: [Picture] = []) throws -> Int {
        try translating { Int(try ffi.countTokens(text: text, images: images.map(\.ffi))) }
    }

    /// A box that the model wrote about `picture`, in pixels of the upright picture.
    ///
    /// - Parameter maxImageTokens: That of the conversation, if it has one.
    /// - Throws: `OwletError` of the kind `.unsupported` for a model without pictures.
    public func pixels(of box: BoundingBox, in picture: Picture, maxImageTokens: UInt32? = nil) throws -> BoundingBox {
        try translating { try ffi.boxToPixels(image: picture.ffi, modelBox: box, maxImageTokens: maxImageTokens) }
    }

    /// The reverse: a box in pixels as the model would write it, to be rounded and put into a question.
    public func modelBox(of pixels: BoundingBox, in picture: Picture, maxImageTokens: UInt32? = nil) throws -> BoundingBox {
        try translating { try ffi.boxToModel(image: picture.ffi, pixelBox: pixels, maxImageTokens: maxImageTokens) }
    }

    /// How probable each of `completions` is as the beginning of the answer to `messages`, which is computed once, pictures included.
    ///
    /// - Parameters:
    ///   - isWhole: Completions are whole answers, whose end is scored as well.
    ///   - session: What it is computed in; its `conversation` is not looked at.
    /// - Throws: `OwletError` of the kind `.contextOverflow`, `.invalidInput`, `.unsupported` or `.backend`.
    public func score(
        _ completions: [String],
        after messages: [Message],
        isWhole: Bool = false,
        adapters: [ActiveAdapter] = [],
        session: SessionOptions = SessionOptions()
    ) async throws -> [Scored] {
        let prompt = messages.prompt(toolsJSON: nil)
        let options = ScoreOptions(session: session, adapters: adapters.map(\.ffi), isWhole: isWhole)
        return try await cancellable { [ffi] token in
            try await ffi.score(prompt: prompt, completions: completions, options: options, cancel: token)
        }
    }

    /// Answers `messages` `count` times, up to `parallel` answers at a time. The prompt is computed once, pictures included. The
    /// stream's last event is `.done`; whoever stops iterating cancels all of it.
    ///
    /// - Parameters:
    ///   - seed: The same prompt, seed and number of parallel answers give the same answers.
    ///   - session: What it is computed in; its `conversation` is not looked at.
    /// - Throws: While iterating, `OwletError` as `score`.
    public func generate(
        _ messages: [Message],
        count: UInt32,
        parallel: UInt32 = 8,
        answer: AnswerOptions = AnswerOptions(),
        seed: UInt64 = 0,
        toolsJSON: String? = nil,
        adapters: [ActiveAdapter] = [],
        session: SessionOptions = SessionOptions()
    ) -> EventStream<GenerationEvent> {
        let prompt = messages.prompt(toolsJSON: toolsJSON)
        let options = GenerateOptions(
            n: count, nParallel: parallel, answer: answer, seed: seed, session: session, adapters: adapters.map(\.ffi))
        return EventStream { [ffi] send in
            try await cancellable { token in
                .done(try await ffi.generate(prompt: prompt, options: options, sink: TokenBridge(send), cancel: token))
            }
        }
    }
}

/// What happens while several answers are written.
public enum GenerationEvent: Sendable {
    /// The next piece of answer number `sample`, thinking and answer alike.
    case text(sample: Int, String)
    /// The last event: all answers.
    case done([Generated])
}

extension EventStream<GenerationEvent> {
    /// Waits for all answers.
    public func answers() async throws -> [Generated] {
        for try await case .done(let answers) in self { return answers }
        throw OwletError.takenAlready
    }
}

private final class WatcherBridge: LoadWatcher {
    private let progress: @Sendable (Float) throws -> Void
    private let appErrors: AppErrors

    init(_ progress: @escaping @Sendable (Float) throws -> Void, _ appErrors: AppErrors) {
        self.progress = progress
        self.appErrors = appErrors
    }

    func onProgress(done: Float) throws -> Bool {
        try appErrors.watching { try progress(done) }
        return true
    }
}

private final class TokenBridge: TokenSink {
    private let send: @Sendable (GenerationEvent) -> Void

    init(_ send: @escaping @Sendable (GenerationEvent) -> Void) { self.send = send }

    func onText(sample: UInt32, text: String) -> Bool {
        send(.text(sample: Int(sample), text))
        return true
    }
}
