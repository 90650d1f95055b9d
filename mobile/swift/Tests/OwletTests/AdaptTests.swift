import Foundation
import Owlet
import Testing

@Suite struct AdaptTests {
    @Test func aSwiftRewardTrainsAnAdapterThatSessionsUse() async throws {
        let model = try await Fixtures.model()
        let scored = Shared(0)
        let job = try await AdaptJob.open(
            model, data: Fixtures.dataset(),
            reward: .rule("short answers") { response, sample in
                #expect(sample.problem == "How many squares are there?")
                scored.change { $0 += 1 }
                return RewardParts(accuracy: 1 / Double(1 + response.count))
            },
            options: Fixtures.adaptOptions())
        #expect(job.state == .idle)
        var steps: [UInt64] = []
        var answers = 0
        var report: AdaptReport?
        for try await event in job.run() {
            switch event {
            case .progress(.stepDone(let metrics)): steps.append(metrics.step)
            case .progress(.sampling(let done, _, _)): answers = max(answers, Int(done))
            case .progress: break
            case .done(let done): report = done
            }
        }
        #expect(steps == [0, 1])
        #expect(report?.nSteps == 2)
        #expect(job.state == .done)
        #expect(scored.value == 2 * 2 * 4, "every answer of every step")
        #expect(answers == 8)

        let adapter = try await job.adapter()
        #expect(adapter.info.rank == 4)
        #expect(try await adapter.checkEffect(threads: 1) > 0)
        #expect(try await owletError { _ = try await adapter.checkEffect(scale: 0, threads: 1) }.kind == .noEffect)
        try await hotSwap(adapter, of: model)
        try await Fixtures.withFolder { folder in
            let file = folder.appending(path: "adapter.gguf")
            try await job.writeAdapter(to: file)
            #expect(try await Adapter.open(file, for: model).info.nParams == adapter.info.nParams)
            let bytes = try Data(contentsOf: file)
            #expect(try await Adapter.open(data: bytes, for: model).info.nModules == adapter.info.nModules)
            let cut = bytes.prefix(bytes.count / 2)
            #expect(try await owletError { _ = try await Adapter.open(data: cut, for: model) }.kind == .invalidFile)
        }
    }

    /// Within one conversation the adapter changes what the model makes of the same words, and its removal changes it back.
    private func hotSwap(_ adapter: Adapter, of model: Model) async throws {
        func logprobs(_ adapters: [ActiveAdapter]) async throws -> [Float] {
            let session = try await Fixtures.session(maxTokens: 4)
            try await session.setAdapters(adapters)
            return try await session.ask("How many squares are there?").turn().logprobs
        }
        let base = try await logprobs([])
        #expect(try await logprobs([ActiveAdapter(adapter, scale: 8)]) != base)
        let session = try await Fixtures.session(maxTokens: 4)
        try await session.setAdapters([ActiveAdapter(adapter, scale: 8)])
        try await session.setAdapters([])
        #expect(try await session.ask("How many squares are there?").turn().logprobs == base)
    }

    @Test func whatARewardThrowsComesBackAndTheRunGoesOn() async throws {
        struct Unsure: Error, Equatable { let response: String }
        let isUnsure = Shared(true)
        let job = try await AdaptJob.open(
            Fixtures.model(), data: Fixtures.dataset(),
            reward: .rule("unsure at first") { response, _ in
                if isUnsure.value { throw Unsure(response: response) }
                return RewardParts(accuracy: 1 / Double(1 + response.count))
            },
            options: Fixtures.adaptOptions(steps: 1))
        let error = try await owletError { try await job.run().report() }
        #expect(error.kind == .callback)
        #expect(error.underlying is Unsure)
        isUnsure.change { $0 = false }
        #expect(try await job.run().report().nSteps == 1)
    }

    @Test func aJobRestsAndGoesOn() async throws {
        let job = try await AdaptJob.open(
            Fixtures.model(), data: Fixtures.dataset(), reward: Fixtures.reward, options: Fixtures.adaptOptions(steps: 1))
        job.pause()
        var seen: [String] = []
        for try await event in job.run() {
            switch event {
            case .progress(.paused):
                seen.append("paused")
                #expect(job.state == .paused)
                job.resume()
            case .progress(.resumed): seen.append("resumed")
            case .progress(.stepDone): seen.append("step")
            case .progress: break
            case .done: seen.append("done")
            }
        }
        #expect(seen == ["paused", "resumed", "step", "done"])
    }

    @Test func aCancelledRunGoesOnFromItsFolderToTheSameAdapter() async throws {
        let model = try await Fixtures.model()
        let whole = try await AdaptJob.open(
            model, data: Fixtures.dataset(), reward: Fixtures.reward, options: Fixtures.adaptOptions())
        try await whole.run().report()
        let expected = try await whole.adapter().info.hash

        try await Fixtures.withFolder { folder in
            func job(_ begin: AdaptBegin) async throws -> AdaptJob {
                try await AdaptJob.open(
                    model, data: Fixtures.dataset(), reward: Fixtures.reward, options: Fixtures.adaptOptions(), folder: folder,
                    begin: begin)
            }
            do {
                let first = try await job(.anew)
                let task = Task {
                    for try await case .progress(.sampling) in first.run() { withUnsafeCurrentTask { $0?.cancel() } }
                }
                let clock = ContinuousClock()
                let duration = await clock.measure {
                    await #expect(throws: CancellationError.self) { try await task.value }
                }
                #expect(duration < .seconds(20))
                #expect(first.state == .idle)
                #expect(try await owletError { _ = try await job(.resume) }.kind == .busy, "the folder is in use")
            }
            let second = try await job(.resume)
            try await second.run().report()
            #expect(try await second.adapter().info.hash == expected)
        }
    }

    @Test func whoeverStopsIteratingStopsTheTraining() async throws {
        let job = try await AdaptJob.open(
            Fixtures.model(), data: Fixtures.dataset(), reward: Fixtures.reward, options: Fixtures.adaptOptions(steps: 1000))
        for try await _ in job.run() { break }
        #expect(try await job.stepsDone < 1000)
        #expect(job.state == .idle)
    }

    @Test func samplesOfFilesBytesAndPixelsAreEvaluated() async throws {
        try await Fixtures.withFolder { folder in
            let file = folder.appending(path: "square.bmp")
            try Fixtures.bitmapFile().write(to: file)
            let images: [SampleImage] = [.file(file), .encoded(Fixtures.bitmapFile()), .decoded(try Fixtures.picture())]
            let held = try Dataset(
                images.enumerated().map { index, image in
                    Sample(
                        id: "\(index)", problem: "<image>Which colour?", answer: "red", problemType: .openEnded, images: [image])
                })
            #expect(held.count == 3)
            let job = try await AdaptJob.open(
                Fixtures.model(), data: held, reward: Fixtures.reward, options: Fixtures.adaptOptions())
            let report = try await job.evaluate(held)
            #expect(report.answers.map(\.id) == ["0", "1", "2"])
            #expect(Set(report.answers.map(\.text)).count == 1, "the same picture, three ways")
            #expect(report.accuracy.n == 3)
        }
    }

    @Test func whatCannotBeTrainedIsRefused() async throws {
        let model = try await Fixtures.model()
        let marks = Sample(id: "a", problem: "<image>What?", answer: "red", problemType: .openEnded)
        #expect(try await owletError { _ = try Dataset([marks]) }.kind == .invalidFile)
        #expect(try await owletError { _ = try await Dataset.open(URL(filePath: "/nowhere/data.jsonl")) }.kind == .notFound)
        let options = AdaptOptions(groupSize: 1)
        let error = try await owletError { _ = try await AdaptJob.open(model, data: Fixtures.dataset(), options: options) }
        #expect(error.kind == .invalidInput)
        let budget = AdaptOptions(memoryBudgetBytes: 1000)
        #expect(try await owletError { _ = try await AdaptJob.open(model, data: Fixtures.dataset(), options: budget) }.kind == .limit)
    }

    @Test func aFinishedJobHoldsNoReward() async throws {
        final class Counter: Reward {
            let name = "counter"
            func score(_ response: String, for sample: SampleView) throws -> RewardParts { RewardParts(accuracy: 0.5) }
        }
        weak var reward: Counter?
        do {
            let counter = Counter()
            reward = counter
            let job = try await AdaptJob.open(
                Fixtures.model(), data: Fixtures.dataset(), reward: counter, options: Fixtures.adaptOptions(steps: 1))
            try await job.run().report()
        }
        // The job's thread ends by itself.
        #expect(try await eventually { reward == nil })
    }
}

extension Fixtures {
    /// Two questions, one of them with a picture.
    static func dataset() throws -> Dataset {
        let problem = "How many squares are there?"
        return try Dataset([
            Sample(id: "words", problem: problem, answer: "0", problemType: .numerical),
            Sample(id: "more words", problem: problem, answer: "1", problemType: .numerical),
        ])
    }

    /// Shorter is better: rarely the same for all answers of a group.
    static var reward: ClosureReward {
        .rule("short answers") { response, _ in RewardParts(accuracy: 1 / Double(1 + response.count)) }
    }

    static func adaptOptions(steps: UInt64 = 2) -> AdaptOptions {
        AdaptOptions(
            nSteps: steps, promptsPerStep: 2, groupSize: 4, maxNewTokens: 12, maxPromptTokens: 256, learningRate: 1e-3, rank: 4,
            alpha: 8, nSequences: 4, nThreads: 1)
    }
}
