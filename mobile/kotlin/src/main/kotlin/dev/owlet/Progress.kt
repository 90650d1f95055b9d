package dev.owlet

import dev.owlet.ffi.Progress as Raw

/** The numbers of a training step. */
public typealias StepMetrics = dev.owlet.ffi.StepMetrics

/** Means over the answers to questions of one task type. */
public typealias TaskMetrics = dev.owlet.ffi.TaskMetrics

/** What a job tells while it runs. */
public sealed interface Progress {
    /**
     * Answers are being written.
     *
     * @property done answers that are done.
     * @property answers answers of the step.
     * @property tokens tokens written.
     */
    public data class Sampling(public val done: Int, public val answers: Int, public val tokens: Long) : Progress

    /**
     * Gradients are being computed.
     *
     * @property done questions that are done.
     * @property groups questions of the step.
     */
    public data class Learning(public val done: Int, public val groups: Int) : Progress

    /**
     * A step is complete.
     *
     * @property metrics its numbers.
     */
    public data class StepDone(public val metrics: StepMetrics) : Progress

    /**
     * A checkpoint is on the disk.
     *
     * @property steps steps in it.
     */
    public data class Checkpoint(public val steps: Long) : Progress

    /**
     * Nothing was learned in several steps in a row: easier or harder questions, a higher temperature or larger groups may help.
     *
     * @property steps steps in a row.
     * @property accuracy mean accuracy of the last one's answers: below one half, the questions are too hard.
     */
    public data class NothingLearned(public val steps: Int, public val accuracy: Double) : Progress

    /**
     * Gradients were not finite; the adapter stays as it was.
     *
     * @property steps steps done.
     */
    public data class UpdateSkipped(public val steps: Long) : Progress

    /** The job rests until [AdaptJob.resume]. */
    public data object Paused : Progress

    /** It goes on. */
    public data object Resumed : Progress
}

internal fun Raw.raised(): Progress =
    when (this) {
        is Raw.Sampling -> Progress.Sampling(nDone.toInt(), nAnswers.toInt(), nTokens.toLong())
        is Raw.Learning -> Progress.Learning(nDone.toInt(), nGroups.toInt())
        is Raw.StepDone -> Progress.StepDone(metrics)
        is Raw.Checkpoint -> Progress.Checkpoint(nSteps.toLong())
        is Raw.NothingLearned -> Progress.NothingLearned(nSteps.toInt(), accuracy)
        is Raw.UpdateSkipped -> Progress.UpdateSkipped(nSteps.toLong())
        is Raw.Paused -> Progress.Paused
        is Raw.Resumed -> Progress.Resumed
    }
