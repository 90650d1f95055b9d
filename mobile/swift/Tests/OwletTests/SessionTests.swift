import Foundation
import Owlet
import Testing

@Suite struct SessionTests {
    @Test func anAnswerAboutAPictureIsStreamed() async throws {
        let session = try await Fixtures.session()
        var (thinking, answer) = ("", "")
        var turn: Turn?
        for try await event in session.ask("What do you see?", images: [try Fixtures.picture()]) {
            #expect(turn == nil, "an event after the last one")
            switch event {
            case .thinking(let text): thinking += text
            case .answer(let text): answer += text
            case .done(let done): turn = done
            }
        }
        let done = try #require(turn)
        #expect(!(thinking + answer).isEmpty)
        #expect((thinking, answer) == (done.thinking, done.answer))
        #expect(done.tokens.count == done.logprobs.count)
        #expect(done.report.pictureMs > 0)
        #expect(session.messages.map(\.role) == [.user, .assistant])
        #expect(session.messages[0].nImages == 1)
    }

    @Test func theSecondQuestionComputesOnlyItself() async throws {
        let session = try await Fixtures.session()
        _ = try await session.ask("What do you see?", images: [try Fixtures.picture()]).turn()
        let second = try await session.ask("And its colour?").turn()
        #expect(second.report.nComputedTokens < second.report.nPromptTokens)
        #expect(session.messages.count == 4)
    }

    @Test func cancellingTheTaskEndsTheAnswer() async throws {
        let session = try await Fixtures.verboseSession()
        let clock = ContinuousClock()
        let begun = Shared(false)
        let task = Task {
            for try await _ in session.ask("Count to a thousand.") { begun.change { $0 = true } }
        }
        while !begun.value { try await Task.sleep(for: .milliseconds(1)) }
        let duration = await clock.measure {
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
        }
        #expect(duration < .seconds(5))
        #expect(session.messages.isEmpty, "a cancelled question leaves nothing")
        try await session.setOptions(Fixtures.sessionOptions(maxTokens: 8).conversation)
        #expect(try await session.ask("What is 1 + 1?").turn().tokens.count > 0, "and the session serves the next one")
    }

    @Test func aCancelledCallThatWaitsDoesNotWaitForItsTurn() async throws {
        let session = try await Fixtures.verboseSession()
        let isDone = Shared(false)
        let running = Task {
            defer { isDone.change { $0 = true } }
            return try await session.ask("Count to a thousand.").turn()
        }
        let waiting = [
            Task { _ = try await session.ask("And backwards?").turn() }, Task { try await session.push("Hello.") },
        ]
        for task in waiting {
            try await Task.sleep(for: .milliseconds(1))
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
        }
        #expect(!isDone.value)
        running.cancel()
        await #expect(throws: CancellationError.self) { try await running.value }
        #expect(session.messages.isEmpty)
    }

    @Test func callsComeInTheirOrder() async throws {
        let session = try await Fixtures.session(maxTokens: 4)
        let first = session.ask("First?")
        async let pushed: Void = session.push("Second.")
        _ = try await (first.turn(), pushed)
        #expect(session.messages.map(\.role) == [.user, .assistant, .user])
    }

    @Test func whoeverStopsIteratingCancels() async throws {
        let session = try await Fixtures.verboseSession()
        let stream = session.ask("Count to a thousand.")
        for try await _ in stream { break }
        // The session answers one after the other: this one waits for the end of the first.
        try await session.push(Message("Hello."))
        #expect(session.messages.map(\.text) == ["Hello."])
        withExtendedLifetime(stream) {}
    }

    @Test func whoeverDropsTheStreamCancels() async throws {
        let session = try await Fixtures.verboseSession()
        _ = session.ask("Count to a thousand.")
        try await session.push(Message("Hello."))
        #expect(session.messages.map(\.text) == ["Hello."])
    }

    @Test func aTaskThatIsCancelledAlreadyAsksNothing() async throws {
        let session = try await Fixtures.session()
        let task = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            return try await session.ask("What?").turn()
        }
        await #expect(throws: CancellationError.self) { try await task.value }
        try await session.push("Hello.")
        #expect(session.messages.count == 1)
    }

    @Test func timeLimitsAreErrorsOfTheirOwn() async throws {
        let session = try await Fixtures.verboseSession()
        let error = try await owletError { _ = try await session.ask("Count.", timeLimit: .zero).turn() }
        #expect(error.kind == .cancelled)
        #expect(session.messages.isEmpty)
    }

    @Test func aStreamIsIteratedOnce() async throws {
        let session = try await Fixtures.session()
        let stream = session.ask("What?")
        _ = try await stream.turn()
        #expect(try await owletError { _ = try await stream.turn() }.kind == .invalidInput)
    }

    @Test func sessionsAnswerSideBySide() async throws {
        let answers = try await withThrowingTaskGroup(of: [UInt32].self) { group in
            for _ in 0..<3 {
                group.addTask { try await Fixtures.session(maxTokens: 8).ask("What is 1 + 1?").turn().tokens }
            }
            return try await group.reduce(into: Set()) { $0.insert($1) }
        }
        #expect(answers.count == 1, "the same question and seed give the same answer")
    }

    @Test @MainActor func theMainActorMayIterate() async throws {
        let session = try await Fixtures.session(maxTokens: 8)
        var pieces = 0
        for try await _ in session.ask("What is 1 + 1?") {
            MainActor.assertIsolated()
            pieces += 1
        }
        #expect(pieces > 1)
    }

    @Test func aConversationIsSavedForkedAndRestored() async throws {
        let model = try await Fixtures.model()
        var options = Fixtures.sessionOptions()
        options.nConversations = 2
        let session = try await Session.open(model, options: options)
        _ = try await session.ask("What do you see?", images: [try Fixtures.picture()]).turn()
        let expected = try await session.fork().ask("And its colour?").turn()
        try await Fixtures.withFolder { folder in
            let file = folder.appending(path: "conversation")
            try await session.save(to: file)
            let restored = try await Session.restore(file, model: model, options: options)
            #expect(restored.messages == session.messages)
            let answered = try await restored.ask("And its colour?").turn()
            #expect(answered.tokens == expected.tokens)
            #expect(answered.report.nComputedTokens < answered.report.nPromptTokens)
        }
        #expect(session.messages.count == 2, "the fork went its own way")
    }

    @Test func whatDoesNotFitIsRefused() async throws {
        let model = try await Fixtures.model()
        let session = try await Session.open(model, options: Fixtures.sessionOptions())
        let error = try await owletError {
            _ = try await session.ask(String(repeating: "word ", count: 5000)).turn()
        }
        #expect(error.kind == .contextOverflow)
        #expect(error.got != nil && error.needed != nil)
        #expect(try await owletError { _ = try await session.ask("<image> and <image>", images: [Fixtures.picture()]).turn() }.kind == .invalidInput)
        let options = SessionOptions(conversation: ConversationOptions(answer: AnswerOptions(temperature: -1)))
        #expect(try await owletError { _ = try await Session.open(model, options: options).ask("What?").turn() }.kind == .invalidInput)
    }

    @Test func answersHaveTheFormThatIsAskedFor() async throws {
        let session = try await Fixtures.session()
        var options = Fixtures.sessionOptions().conversation
        options.answer.constraint = .lark(grammar: #"start: "yes" | "no""#)
        options.answer.thinkingBudget = 0
        try await session.setOptions(options)
        let turn = try await session.ask("Is it red?", images: [try Fixtures.picture()]).turn()
        #expect(["yes", "no"].contains(turn.answer))
        #expect(turn.meetsConstraint == true)
    }

    @Test func nothingIsHeldAfterwards() async throws {
        weak var picture: Picture?
        weak var session: Session?
        do {
            let shown = try Fixtures.picture()
            let asked = try await Fixtures.session()
            (picture, session) = (shown, asked)
            for try await _ in asked.ask("What do you see?", images: [shown]) { break }
            try await asked.push("Hello.")
        }
        // The task behind the stream ends a moment after Rust does.
        #expect(try await eventually { picture == nil && session == nil })
    }
}

/// Waits some seconds for `condition`.
func eventually(_ condition: () -> Bool) async throws -> Bool {
    for _ in 0..<500 where !condition() { try await Task.sleep(for: .milliseconds(10)) }
    return condition()
}
