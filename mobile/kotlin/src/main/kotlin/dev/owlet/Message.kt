package dev.owlet

import dev.owlet.ffi.Message as RawMessage
import dev.owlet.ffi.Prompt as RawPrompt

/** Who speaks. */
public typealias Role = dev.owlet.ffi.Role

/** What one side said in a session; pictures are counted only. */
public typealias ChatMessage = dev.owlet.ffi.ChatMessage

/** A call of a tool, as the model wrote it. */
public typealias ToolCall = dev.owlet.ffi.ToolCall

/** What looks like a call and is none. */
public typealias MalformedCall = dev.owlet.ffi.MalformedCall

/** The calls of tools in an answer. */
public typealias ToolCalls = dev.owlet.ffi.ToolCalls

/**
 * What one side says: a question, what a tool found, an earlier turn.
 *
 * @property text every `<image>` in it is replaced by the next of [images]; without any the pictures come first.
 * @property images the pictures. They may be closed when the call that was given this message has returned.
 * @property role who says it.
 */
public data class Message(
    public val text: String,
    public val images: List<Image> = emptyList(),
    public val role: Role = Role.USER,
) {
    /** The person asks about pictures. */
    public constructor(text: String, vararg images: Image) : this(text, images.asList())

    internal fun lowered(): RawMessage = RawMessage(text, images.map { it.raw }, role)
}

/**
 * What a model is given outside of a session.
 *
 * @property messages what was said, oldest first; the answer to the last one is wanted.
 * @property toolsJson what the model may call: a JSON list of `{"name", "description", "parameters"}`.
 */
public data class Prompt(public val messages: List<Message>, public val toolsJson: String? = null) {
    /** A single question about pictures. */
    public constructor(text: String, vararg images: Image) : this(listOf(Message(text, *images)))

    internal fun lowered(): RawPrompt = RawPrompt(messages.map { it.lowered() }, toolsJson)
}
