import Foundation
import Owlet
import Testing

@Suite struct ModelTests {
    @Test func loadingTellsHowFarItIs() async throws {
        let fractions = Shared<[Float]>([])
        let model = try await Model.load(Fixtures.weights, options: Fixtures.options) { fraction in
            fractions.change { $0.append(fraction) }
        }
        #expect(model.info.architecture == "qwen3vl")
        #expect(model.info.hasVision)
        #expect(fractions.value.last == 1)
        #expect(fractions.value == fractions.value.sorted())
    }

    @Test func aMissingFileIsNamed() async throws {
        let error = try await owletError { _ = try await Model.load(URL(filePath: "/nowhere/model.gguf")) }
        #expect(error.kind == .notFound)
        #expect(error.message.contains("/nowhere/model.gguf"))
    }

    @Test func whatIsNoModelIsRefused() async throws {
        try await Fixtures.withFolder { folder in
            let file = folder.appending(path: "model.gguf")
            try Data("a model, or so its name says".utf8).write(to: file)
            #expect(try await owletError { _ = try await Model.load(file) }.kind == .invalidFile)
        }
    }

    @Test func whatProgressThrowsEndsTheLoadingAndComesBack() async throws {
        struct Enough: Error {}
        let error = try await owletError {
            _ = try await Model.load(Fixtures.weights, options: Fixtures.options) { _ in throw Enough() }
        }
        #expect(error.kind == .callback)
        #expect(error.underlying is Enough)
    }

    @Test func aCancelledTaskLoadsNothing() async throws {
        let begun = Shared(0)
        let task = Task {
            try await Model.load(Fixtures.weights, options: Fixtures.options) { _ in
                begun.change { $0 += 1 }
                Thread.sleep(forTimeInterval: 0.02)
            }
        }
        while begun.value == 0 { try await Task.sleep(for: .milliseconds(1)) }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
    }

    @Test func completionsAreScored() async throws {
        let model = try await Fixtures.model()
        let scored = try await model.score(
            ["red", "blue blue blue"], after: [Message("Which colour?", images: [try Fixtures.picture()])],
            session: Fixtures.sessionOptions())
        #expect(scored.count == 2)
        for completion in scored {
            #expect(completion.sum < 0)
            #expect(abs(completion.mean * Double(completion.logprobs.count) - completion.sum) < 1e-6)
        }
    }

    @Test func severalAnswersAreWrittenAtATime() async throws {
        let model = try await Fixtures.model()
        var texts = ["", "", ""]
        var answers: [Generated] = []
        let stream = model.generate(
            ["What do you see?"], count: 3, answer: AnswerOptions(maxNewTokens: 8), session: Fixtures.sessionOptions())
        for try await event in stream {
            switch event {
            case .text(let sample, let text): texts[sample] += text
            case .done(let all): answers = all
            }
        }
        #expect(answers.count == 3)
        #expect(texts.allSatisfy { !$0.isEmpty })
    }

    @Test func boxesGoBothWays() async throws {
        let model = try await Fixtures.model()
        let picture = try Fixtures.picture()
        let box = BoundingBox(x1: 16, y1: 16, x2: 48, y2: 40)
        let there = try model.modelBox(of: box, in: picture)
        let back = try model.pixels(of: there, in: picture)
        #expect(abs(back.x1 - 16) < 1e-6 && abs(back.y2 - 40) < 1e-6)
    }

    @Test func memoryIsToldBeforehandAndBudgetsAreRefusedInNumbers() async throws {
        let plan = try await OwletLibrary.planInference(Fixtures.weights, projector: Fixtures.projector)
        #expect(plan.peakBytes > 0)
        #expect(plan.parts.map(\.nBytes).reduce(0, +) >= plan.peakBytes)
        let error = try await owletError {
            _ = try await OwletLibrary.planInference(
                Fixtures.weights, request: InferenceRequest(session: SessionOptions(memoryBudgetBytes: 1000)))
        }
        #expect(error.kind == .limit)
        #expect(error.needed != nil)
        let training = try await OwletLibrary.planAdaptation(Fixtures.weights)
        #expect(training.peakBytes > 0)
    }

    @Test func whatIsLoggedGoesToTheApp() async throws {
        let lines = Shared<[String]>([])
        try OwletLibrary.setLog(.debug) { _, _, text in lines.change { $0.append(text) } }
        _ = try await Model.load(Fixtures.weights, options: Fixtures.options)
        OwletLibrary.clearLog()
        #expect(!lines.value.isEmpty)
    }

    @Test func theLibraryTellsOfItself() throws {
        #expect(OwletLibrary.version.split(separator: ".").count == 3)
        #expect(try OwletLibrary.devices().contains { $0.kind == .cpu })
    }
}
