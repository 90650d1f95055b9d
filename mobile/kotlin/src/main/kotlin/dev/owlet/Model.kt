package dev.owlet

import dev.owlet.ffi.LoadWatcher
import dev.owlet.ffi.TokenSink
import dev.owlet.ffi.Adapter as RawAdapter
import dev.owlet.ffi.GenerateOptions as RawGenerateOptions
import dev.owlet.ffi.Model as Raw
import dev.owlet.ffi.ScoreOptions as RawScoreOptions

/** How a model is loaded; what is not given has Owlet's default. */
public typealias ModelOptions = dev.owlet.ffi.ModelOptions

/** What a model is. */
public typealias ModelInfo = dev.owlet.ffi.ModelInfo

/** Where a model's layers are, and why not on a GPU. */
public typealias Placement = dev.owlet.ffi.Placement

/** A box in a picture, from its top left corner. */
public typealias BoundingBox = dev.owlet.ffi.BoundingBox

/** How probable a completion is. */
public typealias Scored = dev.owlet.ffi.Scored

/**
 * How several answers are sampled.
 *
 * @property n answers wanted.
 * @property nParallel answers written at a time, 1 to 256. Memory grows with it.
 * @property answer how they are written.
 * @property seed of the random numbers: the same prompt, seed and parallel answers give the same answers.
 * @property session the session that it is done in; its `conversation` is not looked at.
 * @property adapters in use together.
 */
public data class GenerateOptions(
    public val n: Int = 1,
    public val nParallel: Int = 8,
    public val answer: AnswerOptions = AnswerOptions(),
    public val seed: ULong = 0uL,
    public val session: SessionOptions = SessionOptions(),
    public val adapters: List<ActiveAdapter> = emptyList(),
) {
    init {
        require(n >= 0 && nParallel >= 1) { "n = $n, nParallel = $nParallel" }
    }

    internal fun lowered(): RawGenerateOptions =
        RawGenerateOptions(n.toUInt(), nParallel.toUInt(), answer, seed, session, adapters.map { it.lowered() })
}

/**
 * How completions are scored.
 *
 * @property session the session that it is done in; its `conversation` is not looked at.
 * @property adapters in use together.
 * @property temperature divides the logits, 0 to 100.
 * @property isWhole whether a completion is a whole answer, whose end is scored as well.
 * @property wholeVocabulary whether control tokens share in the probability, as in Hugging Face's numbers.
 */
public data class ScoreOptions(
    public val session: SessionOptions = SessionOptions(),
    public val adapters: List<ActiveAdapter> = emptyList(),
    public val temperature: Float = 1f,
    public val isWhole: Boolean = false,
    public val wholeVocabulary: Boolean = false,
) {
    internal fun lowered(): RawScoreOptions =
        RawScoreOptions(session, adapters.map { it.lowered() }, temperature, isWhole, wholeVocabulary)
}

/**
 * A model with its image projector, once in memory for any number of sessions and jobs.
 *
 * Safe to use from several coroutines.
 */
public class Model private constructor(internal val raw: Raw) : AutoCloseable {
    /** What it is. */
    public val info: ModelInfo get() = raw.info()

    /** Where its layers are, and why not on a GPU. */
    public val placement: Placement get() = raw.placement()

    /**
     * Begins a conversation, under [adapters] if there are any.
     *
     * @throws OwletException of kind `LIMIT` where `memoryBudgetBytes` cannot be met, `INVALID_INPUT` for options out of range.
     */
    public suspend fun session(
        options: SessionOptions = SessionOptions(),
        adapters: List<ActiveAdapter> = emptyList(),
    ): Session = Session.open(this, options, adapters)

    /**
     * Goes on with the conversation that [Session.save] wrote to [path], under the adapters that it was saved under. Its
     * `conversation` options come from the file.
     *
     * @throws OwletException of kind `NOT_FOUND`, `INVALID_FILE`, `MISMATCH` (another model, other adapters), or as [session].
     */
    public suspend fun restore(
        path: String,
        options: SessionOptions = SessionOptions(),
        adapters: List<ActiveAdapter> = emptyList(),
    ): Session = Session.restore(this, path, options, adapters)

    /**
     * Reads the adapter file at [path].
     *
     * @throws OwletException of kind `NOT_FOUND`, `INVALID_FILE`, `UNSUPPORTED`, or `MISMATCH` for an adapter of another model.
     */
    public suspend fun adapter(path: String): Adapter = blocking { Adapter(RawAdapter.open(raw, path)) }

    /** The same of the bytes of an adapter file. */
    public suspend fun adapter(file: ByteArray): Adapter = blocking { Adapter(RawAdapter.fromBytes(raw, file)) }

    /**
     * Answers [prompt] `options.n` times. It is computed once, pictures included.
     *
     * @param onText hears the pieces of the answer number `sample`, on a thread of Owlet's; `false` ends that answer.
     * @throws OwletException of kind `CONTEXT_OVERFLOW`, `INVALID_INPUT`, `UNSUPPORTED`; `CALLBACK` where [onText] failed.
     */
    public suspend fun generate(
        prompt: Prompt,
        options: GenerateOptions = GenerateOptions(),
        onText: ((sample: Int, text: String) -> Boolean)? = null,
    ): List<Generated> {
        val callbacks = Callbacks()
        val sink = onText?.let { hear ->
            object : TokenSink {
                override fun onText(sample: UInt, text: String): Boolean = callbacks.call { hear(sample.toInt(), text) }
            }
        }
        return callbacks.explaining {
            cancellable { token -> raw.generate(prompt.lowered(), options.lowered(), sink, token).map { it.raised() } }
        }
    }

    /**
     * How probable each of [completions] is as the beginning of an answer to [prompt], which is computed once.
     *
     * @throws OwletException of kind `CONTEXT_OVERFLOW`, `INVALID_INPUT`, `UNSUPPORTED`.
     */
    public suspend fun score(
        prompt: Prompt,
        completions: List<String>,
        options: ScoreOptions = ScoreOptions(),
    ): List<Scored> = cancellable { token -> raw.score(prompt.lowered(), completions, options.lowered(), token) }

    /** The calls of tools in [answer]. Turns of a session that was given tools have them already. */
    public fun toolCalls(answer: String): ToolCalls = raw.toolCalls(answer)

    /** Tokens that a message of [text] and [images] takes in a context, the template's own included. */
    public fun countTokens(text: String, images: List<Image> = emptyList()): Int =
        translating { raw.countTokens(text, images.map { it.raw }).toInt() }

    /**
     * A box that the model wrote about [image], in pixels of the upright picture.
     *
     * @param maxImageTokens that of the conversation, if it has one.
     * @throws OwletException of kind `UNSUPPORTED` for a model without pictures.
     */
    public fun boxToPixels(image: Image, box: BoundingBox, maxImageTokens: Int? = null): BoundingBox =
        translating { raw.boxToPixels(image.raw, box, maxImageTokens?.toUInt()) }

    /** The reverse: a box in pixels of [image] as the model would write it, to be rounded and put into a question. */
    public fun boxToModel(image: Image, box: BoundingBox, maxImageTokens: Int? = null): BoundingBox =
        translating { raw.boxToModel(image.raw, box, maxImageTokens?.toUInt()) }

    /** Lets go of the model. Its memory is freed when the sessions, adapters and jobs over it are closed too. */
    override fun close(): Unit = raw.close()

    public companion object {
        /**
         * Loads the GGUF file at [path] with its image projector: `options.mmproj`, or the `mmproj*.gguf` beside it.
         *
         * @param onProgress hears how much is loaded, 0 to 1, on a thread of Owlet's.
         * @throws OwletException of kind `NOT_FOUND`, `IO`; `INVALID_FILE`, `UNSUPPORTED` and `MISMATCH` for what is no model of
         *     ours; `UNSUPPORTED` or `LIMIT` for a GPU that is asked for in vain; `CALLBACK` where [onProgress] failed.
         */
        public suspend fun load(
            path: String,
            options: ModelOptions = ModelOptions(),
            onProgress: ((done: Float) -> Unit)? = null,
        ): Model {
            val callbacks = Callbacks()
            val watcher = onProgress?.let { hear ->
                object : LoadWatcher {
                    override fun onProgress(done: Float): Boolean = callbacks.call {
                        hear(done)
                        true
                    }
                }
            }
            return callbacks.explaining { cancellable { token -> Model(Raw.load(path, options, watcher, token)) } }
        }
    }
}
