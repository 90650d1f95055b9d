package dev.owlet

import dev.owlet.ffi.Reward as RawReward

/** The parts of an answer's reward. */
public typealias RewardParts = dev.owlet.ffi.RewardParts

/** What a reward sees of the sample that was asked. */
public typealias SampleView = dev.owlet.ffi.SampleView

/**
 * A rule of the app that scores answers.
 *
 * [score] is called on Owlet's threads, on several at once, and must be deterministic: a run that was stopped and resumed ends
 * in the same adapter only then. What it throws ends the run, which can go on, with an error that has the exception as its cause.
 *
 * @property name the rule's name and version: a run goes on only with the rule that it began with.
 * @property score the parts of the reward for `response`, the whole text that the model wrote.
 */
public class Reward(
    public val name: String,
    public val score: (response: String, sample: SampleView) -> RewardParts,
) {
    internal fun lowered(callbacks: Callbacks): RawReward = object : RawReward {
        override fun name(): String = name

        override fun score(response: String, sample: SampleView): RewardParts =
            callbacks.call { this@Reward.score(response, sample) }
    }
}
