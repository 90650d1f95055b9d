package dev.owlet

import dev.owlet.ffi.AdapterGate as Raw

/** When a candidate may go live; what is not given has Owlet's default. */
public typealias GateRule = dev.owlet.ffi.GateRule

/** What the gate says of a candidate. */
public typealias Verdict = dev.owlet.ffi.Verdict

/** A mean before and after, and its change by pairs. */
public typealias Change = dev.owlet.ffi.Change

/** The change of one task type's reward. */
public typealias TaskChange = dev.owlet.ffi.TaskChange

/**
 * The adapters of one purpose of the app, in a folder: one that is live, those before it, and a candidate. Only an adapter that
 * answered held-out samples better goes live, and the one before can come back. The folder belongs to this object as long as
 * it is open; parts of an app that only use the live adapter ask [active] of the companion.
 */
public class AdapterGate private constructor(private val raw: Raw) : AutoCloseable {
    /** Files of live adapters that were found damaged when the gate was opened, and gave way to those before. */
    public val damaged: List<String> get() = raw.damaged()

    /**
     * Asks the adapter in the file [candidate], and what is live now, the samples of [heldOut], by the lengths, suffix, threads
     * and sessions of [options]. One that passes waits for [activate].
     *
     * @param reward scores the answers; without one, Owlet's own rules for the problem types.
     * @throws OwletException of kind `INVALID_INPUT` for fewer samples than the rule wants; `MISMATCH` for an adapter of another
     *     model; `INVALID_FILE` for a damaged one; `CALLBACK` where the reward threw, with its exception as the cause.
     */
    public suspend fun consider(
        candidate: String,
        model: Model,
        heldOut: Dataset,
        options: AdaptOptions = AdaptOptions(),
        reward: Reward? = null,
    ): Verdict {
        val callbacks = Callbacks()
        val lowered = reward?.lowered(callbacks)
        return callbacks.explaining {
            cancellable { token -> raw.consider(candidate, model.raw, heldOut.raw, options, lowered, token) }
        }
    }

    /**
     * The accepted candidate goes live, all at once; what was live before is kept. Returns its file.
     *
     * @throws OwletException of kind `NOT_FOUND` where no candidate waits.
     */
    public suspend fun activate(): String = translating { raw.activate() }

    /**
     * The adapter before goes live again, or the model alone where there is none. Returns its file.
     *
     * @throws OwletException of kind `NOT_FOUND` where the model alone is live.
     */
    public suspend fun rollback(): String? = translating { raw.rollback() }

    /** The file of the live adapter; `null` where the model alone is live. */
    public suspend fun active(): String? = translating { raw.active() }

    /** Whether a candidate was accepted and waits. */
    public suspend fun hasCandidate(): Boolean = translating { raw.hasCandidate() }

    /** Lets go of the folder. */
    override fun close(): Unit = raw.close()

    public companion object {
        /**
         * The gate in [folder], which is created.
         *
         * @throws OwletException of kind `INVALID_INPUT` for a rule out of range; `BUSY` when another object or process has the
         *     folder; `INVALID_FILE` and `UNSUPPORTED` for a folder of something else; `IO`.
         */
        public suspend fun open(folder: String, rule: GateRule = GateRule()): AdapterGate =
            blocking { AdapterGate(Raw.open(folder, rule)) }

        /**
         * The file of the adapter that is live in the gate's [folder]; `null` where the model alone is, or there is no gate.
         * The folder may be open elsewhere.
         */
        public suspend fun active(folder: String): String? = blocking { dev.owlet.ffi.activeAdapter(folder) }
    }
}
