package dev.owlet

import dev.owlet.ffi.Constraint as RawConstraint
import dev.owlet.ffi.Event as RawEvent
import dev.owlet.ffi.Generated as RawGenerated
import dev.owlet.ffi.StopReason as RawStopReason
import dev.owlet.ffi.Turn as RawTurn

/** How answers are written; what is not given has Owlet's default. */
public typealias AnswerOptions = dev.owlet.ffi.AnswerOptions

/** What an answer has to look like: [jsonSchema] or [lark]. */
public typealias Constraint = dev.owlet.ffi.Constraint

/** Added to the logit of a token. */
public typealias LogitBias = dev.owlet.ffi.LogitBias

/** A token with its probability. */
public typealias TopToken = dev.owlet.ffi.TopToken

/** What a turn cost. */
public typealias TurnReport = dev.owlet.ffi.TurnReport

/** JSON that is valid under [schema], a JSON Schema. */
public fun RawConstraint.Companion.jsonSchema(schema: String): Constraint = RawConstraint.JsonSchema(schema)

/** A text of a context-free [grammar] in the Lark dialect: `start: "yes" | "no"`. */
public fun RawConstraint.Companion.lark(grammar: String): Constraint = RawConstraint.Lark(grammar)

/** Why an answer ended. */
public sealed interface StopReason {
    /** The model ended it. */
    public data object EndOfAnswer : StopReason

    /**
     * It came to a stop string.
     *
     * @property index its place in `AnswerOptions.stop`.
     */
    public data class StopString(public val index: Int) : StopReason

    /** It reached the number of tokens asked for. */
    public data object MaxTokens : StopReason

    /** The context is full. */
    public data object ContextFull : StopReason

    /** The constraint leaves no token that the model may say. */
    public data object DeadEnd : StopReason

    /** The app said so. */
    public data object Caller : StopReason
}

/**
 * An answer outside of a session.
 *
 * @property answer what the model answered, without tags.
 * @property thinking what it thought.
 * @property stop why it ended.
 * @property meetsConstraint whether it is what the constraint asks for; `null` without one.
 * @property tokens its tokens; the last one is the end token when the model ended it.
 * @property logprobs the natural log-probability of each token.
 * @property topLogprobs per token, the most probable ones in its place, if asked for.
 */
public data class Generated(
    public val answer: String,
    public val thinking: String,
    public val stop: StopReason,
    public val meetsConstraint: Boolean?,
    public val tokens: List<UInt>,
    public val logprobs: List<Float>,
    public val topLogprobs: List<List<TopToken>>,
)

/**
 * A question answered.
 *
 * @property answer what the model said to the person: its text up to the first call, without tags.
 * @property thinking what it thought.
 * @property calls tools that it calls. Their results are asked as messages of the role `TOOL`.
 * @property malformedCalls calls that cannot be read.
 * @property stop why it ended.
 * @property meetsConstraint whether it is what the constraint asks for; `null` without one.
 * @property tokens its tokens, thinking and end included.
 * @property logprobs the natural log-probability of each token.
 * @property topLogprobs per token, the most probable ones in its place, if asked for.
 * @property report what it cost.
 */
public data class Turn(
    public val answer: String,
    public val thinking: String,
    public val calls: List<ToolCall>,
    public val malformedCalls: List<MalformedCall>,
    public val stop: StopReason,
    public val meetsConstraint: Boolean?,
    public val tokens: List<UInt>,
    public val logprobs: List<Float>,
    public val topLogprobs: List<List<TopToken>>,
    public val report: TurnReport,
)

/** What happens while a question is answered. */
public sealed interface AnswerEvent {
    /**
     * What the model thinks.
     *
     * @property text the next piece, without tags.
     */
    public data class Thinking(public val text: String) : AnswerEvent

    /**
     * What the model answers.
     *
     * @property text the next piece, without tags.
     */
    public data class Answer(public val text: String) : AnswerEvent

    /**
     * The last event.
     *
     * @property turn the whole answer.
     */
    public data class Done(public val turn: Turn) : AnswerEvent
}

internal fun RawEvent.raised(): AnswerEvent =
    when (this) {
        is RawEvent.Thinking -> AnswerEvent.Thinking(text)
        is RawEvent.Answer -> AnswerEvent.Answer(text)
    }

internal fun RawTurn.raised(): Turn = Turn(
    answer, thinking, calls, malformedCalls, stop.raised(), meetsConstraint, tokens, logprobs, topLogprobs, report,
)

internal fun RawGenerated.raised(): Generated =
    Generated(answer, thinking, stop.raised(), meetsConstraint, tokens, logprobs, topLogprobs)

private fun RawStopReason.raised(): StopReason =
    when (this) {
        is RawStopReason.EndOfAnswer -> StopReason.EndOfAnswer
        is RawStopReason.StopString -> StopReason.StopString(index.toInt())
        is RawStopReason.MaxTokens -> StopReason.MaxTokens
        is RawStopReason.ContextFull -> StopReason.ContextFull
        is RawStopReason.DeadEnd -> StopReason.DeadEnd
        is RawStopReason.Caller -> StopReason.Caller
    }
