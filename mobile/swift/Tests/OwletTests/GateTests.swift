import Foundation
import Owlet
import Testing

@Suite struct GateTests {
    /// A few held-out questions, and a rule that decides by them.
    private static let rule = GateRule(minSamples: 2, mostLoss: 100, mostTaskLoss: 100)

    /// A trained adapter in `folder`.
    private static func candidate(in folder: URL) async throws -> URL {
        let job = try await AdaptJob.open(
            Fixtures.model(), data: Fixtures.dataset(), reward: Fixtures.reward, options: Fixtures.adaptOptions(steps: 1))
        try await job.run().report()
        let file = folder.appending(path: "candidate.gguf")
        try await job.writeAdapter(to: file)
        return file
    }

    @Test func anAcceptedCandidateGoesLiveAndComesBack() async throws {
        try await Fixtures.withFolder { folder in
            let candidate = try await Self.candidate(in: folder)
            let gate = folder.appending(path: "gate")
            let live = try AdapterGate(folder: gate, rule: GateRule(minSamples: 2, leastGain: -1, mostLoss: 100, mostTaskLoss: 100))
            #expect(try await live.active == nil)
            let verdict = try await live.consider(
                candidate, model: Fixtures.model(), heldOut: Fixtures.dataset(), reward: Fixtures.reward,
                options: Fixtures.adaptOptions())
            #expect(verdict.isAccepted, "\(verdict.reasons)")
            #expect(verdict.nSamples == 2)
            #expect(try await live.hasCandidate)
            #expect(try await live.active == nil, "not before it is activated")
            let file = try await live.activate()
            #expect(try AdapterGate.live(in: gate) == file)
            let adapter = try await Adapter.open(file, for: Fixtures.model())
            #expect(adapter.info.hash == verdict.candidate)
            #expect(try await live.rollback() == nil)
            #expect(try AdapterGate.live(in: gate) == nil)
            #expect(try await owletError { try await live.rollback() }.kind == .notFound)
        }
    }

    @Test func aRefusedCandidateNeverGoesLive() async throws {
        try await Fixtures.withFolder { folder in
            let candidate = try await Self.candidate(in: folder)
            let gate = try AdapterGate(folder: folder.appending(path: "gate"), rule: GateRule(minSamples: 2, leastGain: 0.9))
            let verdict = try await gate.consider(
                candidate, model: Fixtures.model(), heldOut: Fixtures.dataset(), reward: Fixtures.reward,
                options: Fixtures.adaptOptions())
            #expect(!verdict.isAccepted)
            #expect(!verdict.reasons.isEmpty)
            #expect(try await owletError { try await gate.activate() }.kind == .notFound)
            #expect(try await gate.active == nil)
        }
    }

    @Test func whatARewardThrowsComesBack() async throws {
        struct Unsure: Error {}
        try await Fixtures.withFolder { folder in
            let candidate = try await Self.candidate(in: folder)
            let gate = try AdapterGate(folder: folder.appending(path: "gate"), rule: Self.rule)
            let error = try await owletError {
                _ = try await gate.consider(
                    candidate, model: Fixtures.model(), heldOut: Fixtures.dataset(),
                    reward: .rule("unsure") { _, _ in throw Unsure() }, options: Fixtures.adaptOptions())
            }
            #expect(error.kind == .callback)
            #expect(error.underlying is Unsure)
        }
    }

    @Test func aGateWantsItsFolderAndEnoughSamples() async throws {
        try await Fixtures.withFolder { folder in
            let candidate = try await Self.candidate(in: folder)
            let gate = try AdapterGate(folder: folder.appending(path: "gate"))
            #expect(
                try await owletError { _ = try AdapterGate(folder: folder.appending(path: "gate")) }.kind == .busy)
            let error = try await owletError {
                _ = try await gate.consider(candidate, model: Fixtures.model(), heldOut: Fixtures.dataset())
            }
            #expect(error.kind == .invalidInput)
        }
    }
}
