package dev.owlet

import dev.owlet.ffi.ActiveAdapter as RawActive
import dev.owlet.ffi.Adapter as Raw

/** What an adapter holds. */
public typealias AdapterInfo = dev.owlet.ffi.AdapterInfo

/** A trained change of a model, to be used by sessions of that model; see [Session.setAdapters]. */
public class Adapter internal constructor(internal val raw: Raw) : AutoCloseable {
    /** What it holds. */
    public val info: AdapterInfo get() = raw.info()

    /**
     * The largest difference that it makes to the logits after a short question, [scale] times.
     *
     * @throws OwletException of kind `NO_EFFECT` when there is none, `INVALID_FILE` for an adapter whose numbers are broken.
     */
    public suspend fun checkEffect(scale: Float = 1f): Float = cancellable { token -> raw.checkEffect(scale, cancel = token) }

    /** Lets go of it. Sessions that use it keep it. */
    override fun close(): Unit = raw.close()
}

/**
 * An adapter in use.
 *
 * @property scale what its updates are multiplied by.
 */
public data class ActiveAdapter(public val adapter: Adapter, public val scale: Float = 1f) {
    internal fun lowered(): RawActive = RawActive(adapter.raw, scale)
}
