import OwletFFI

/// Tells how good a response is. Called on threads of Owlet's, several at once.
///
/// The same response and sample must always get the same parts: a run that is stopped and resumed ends in the same adapter only
/// then.
public protocol Reward: Sendable {
    /// The rule's name and version: a run goes on only with the rule that it began with.
    var name: String { get }

    /// The parts of the reward for `response`, the text that was generated for `sample`. An error ends the run, which throws
    /// `OwletError` of the kind `.callback` with it; the run can be resumed.
    func score(_ response: String, for sample: SampleView) throws -> RewardParts
}

/// A reward that is one function.
public struct ClosureReward: Reward {
    public let name: String
    private let rule: @Sendable (String, SampleView) throws -> RewardParts

    /// A reward `name` by `rule`, which gets the response and the sample.
    public init(_ name: String, _ rule: @escaping @Sendable (String, SampleView) throws -> RewardParts) {
        self.name = name
        self.rule = rule
    }

    public func score(_ response: String, for sample: SampleView) throws -> RewardParts { try rule(response, sample) }
}

extension Reward where Self == ClosureReward {
    /// A reward that is one function: `.rule("short") { response, _ in RewardParts(accuracy: response.count < 20 ? 1 : 0) }`.
    public static func rule(
        _ name: String, _ score: @escaping @Sendable (String, SampleView) throws -> RewardParts
    ) -> ClosureReward {
        ClosureReward(name, score)
    }
}

/// What Rust calls.
final class RewardBridge: OwletFFI.Reward {
    private let reward: any Reward
    private let appErrors: AppErrors

    init(_ reward: any Reward, _ appErrors: AppErrors) {
        self.reward = reward
        self.appErrors = appErrors
    }

    func name() -> String { reward.name }

    func score(response: String, sample: SampleView) throws -> RewardParts {
        try appErrors.watching { try reward.score(response, for: sample) }
    }
}
