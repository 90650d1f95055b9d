package dev.owlet

import com.sun.jna.Native
import dev.owlet.ffi.CancelToken
import dev.owlet.ffi.Event
import dev.owlet.ffi.EventSink
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import dev.owlet.ffi.Session as Raw

/** How a session is set up; what is not given has Owlet's default. */
public typealias SessionOptions = dev.owlet.ffi.SessionOptions

/** Precision of keys and values. */
public typealias KvType = dev.owlet.ffi.KvType

/** How a conversation goes; what is not given has Owlet's default. */
public typealias ConversationOptions = dev.owlet.ffi.ConversationOptions

/** What becomes of a question that no longer fits the context. */
public typealias Overflow = dev.owlet.ffi.Overflow

/**
 * Questions and answers in turn, on a thread of their own. What was computed of the conversation, its pictures included, is
 * not computed again.
 *
 * Safe to use from several coroutines: calls wait for each other in the order in which they came. A question that fails or is
 * cancelled leaves the conversation as it was before.
 */
public class Session private constructor(private val raw: Raw) : AutoCloseable {
    /** Fair: first come, first served. */
    private val turns = Mutex()

    /**
     * Asks [message] when it is collected, once for every collection, and ends with [AnswerEvent.Done].
     *
     * A collector that is cancelled, or takes no more (`first`, `take`), cancels the answer; its scope goes on when Rust has
     * stopped, within a token of an answer (`docs/cancellation.md` has the bounds of all phases). Such a question leaves no
     * trace; to end an answer early and keep it, use [answer]. The model does not wait for slow collectors.
     *
     * @throws OwletException of kind `CONTEXT_OVERFLOW` for what does not fit, `UNSUPPORTED` for pictures without a projector.
     */
    public fun ask(message: Message): Flow<AnswerEvent> = channelFlow {
        val sink = object : EventSink {
            override fun onEvent(event: Event): Boolean {
                Native.detach(false)
                trySend(event.raised())
                // A collector that is gone cancels the token; ended by `false`, its question would stay in the conversation.
                return true
            }
        }
        val turn = inTurn { token -> raw.ask(message.lowered(), sink, token).raised() }
        send(AnswerEvent.Done(turn))
    }.buffer(Channel.UNLIMITED)

    /** Asks about [images] in words; see the other `ask`. */
    public fun ask(text: String, vararg images: Image): Flow<AnswerEvent> = ask(Message(text, *images))

    /**
     * Asks [message] and returns the whole answer.
     *
     * @param onEvent hears the answer while it is written, on a thread of Owlet's. `false` ends the answer there, as a turn like
     *     any other; what it throws fails the call, and is the cause of the error.
     * @throws OwletException as [ask]; of kind `CALLBACK` where [onEvent] failed.
     */
    public suspend fun answer(message: Message, onEvent: ((AnswerEvent) -> Boolean)? = null): Turn {
        val callbacks = Callbacks()
        val sink = onEvent?.let { hear ->
            object : EventSink {
                override fun onEvent(event: Event): Boolean = callbacks.call { hear(event.raised()) }
            }
        }
        return callbacks.explaining { inTurn { token -> raw.ask(message.lowered(), sink, token).raised() } }
    }

    /** Asks about [images] in words, and returns the whole answer. */
    public suspend fun answer(text: String, vararg images: Image): Turn = answer(Message(text, *images))

    /** Adds to what was said without asking anything: a history that the app kept elsewhere, or an example. */
    public suspend fun push(message: Message): Unit = inTurn { token -> raw.push(message.lowered(), token) }

    /**
     * Puts [adapters] in place of those before, between two answers; none for the model alone. What was computed under others
     * is computed again with the next question.
     *
     * @throws OwletException of kind `MISMATCH` for adapters of another model.
     */
    public suspend fun setAdapters(adapters: List<ActiveAdapter>): Unit =
        inTurn { raw.setAdapters(adapters.map { it.lowered() }) }

    /** The same, each at full strength. */
    public suspend fun setAdapters(vararg adapters: Adapter): Unit = setAdapters(adapters.map { ActiveAdapter(it) })

    /** Goes on by [options] from the next question on. */
    public suspend fun setOptions(options: ConversationOptions): Unit = inTurn { raw.setOptions(options) }

    /**
     * Writes the conversation to the file at [path], in place of an older one: texts, and pictures as the model sees them,
     * not encrypted. [Model.restore] goes on with it without computing anything again.
     */
    public suspend fun save(path: String): Unit = inTurn { raw.save(path) }

    /**
     * A second conversation that goes on from here, without computing anything again. Both take turns.
     *
     * @throws OwletException of kind `LIMIT` when there are `SessionOptions.nConversations` already.
     */
    public suspend fun fork(): Session = inTurn { Session(raw.fork()) }

    /** What was said up to the last call that is done, the instructions apart. */
    public val messages: List<ChatMessage> get() = raw.messages()

    /** Places of the context that are computed, after the last call that is done. */
    public val nTokens: Int get() = raw.nTokens().toInt()

    /** Ends the session and frees its memory. An answer under way is finished first, on its own thread: cancel it to stop it. */
    override fun close(): Unit = raw.close()

    /** Waits here and not in Rust's queue, where a call that is cancelled would wait for the answer before it. */
    private suspend fun <T> inTurn(work: suspend (CancelToken) -> T): T = turns.withLock { cancellable(work) }

    internal companion object {
        suspend fun open(model: Model, options: SessionOptions, adapters: List<ActiveAdapter>): Session =
            cancellable { token -> Session(Raw.open(model.raw, options, adapters.map { it.lowered() }, token)) }

        suspend fun restore(model: Model, path: String, options: SessionOptions, adapters: List<ActiveAdapter>): Session =
            cancellable { token -> Session(Raw.restore(model.raw, path, options, adapters.map { it.lowered() }, token)) }
    }
}
