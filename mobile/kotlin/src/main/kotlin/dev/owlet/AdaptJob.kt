package dev.owlet

import dev.owlet.ffi.ProgressSink
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.flow.onEach
import dev.owlet.ffi.AdaptJob as Raw
import dev.owlet.ffi.Progress as RawProgress

/** How an adapter is trained; what is not given has Owlet's default. */
public typealias AdaptOptions = dev.owlet.ffi.AdaptOptions

/** A published method of policy optimization. */
public typealias Method = dev.owlet.ffi.Method

/** A linear layer of a decoder block. */
public typealias Target = dev.owlet.ffi.Target

/** Whether a job goes on from its folder. */
public typealias Begin = dev.owlet.ffi.Begin

/** What a job is doing. */
public typealias JobState = dev.owlet.ffi.JobState

/** What a run came to. */
public typealias AdaptReport = dev.owlet.ffi.AdaptReport

/** How good answers to held-out samples are. */
public typealias EvaluationReport = dev.owlet.ffi.EvaluationReport

/** A mean with its 95 % interval. */
public typealias Interval = dev.owlet.ffi.Interval

/** Counts that a collector may miss when it lags so many events behind. */
private const val MOST_BEHIND = 64

/**
 * A training run with a thread of its own.
 *
 * What it has done is kept in its folder, by checkpoints and whenever it is paused or cancelled: a job that is opened with the
 * same folder, options, data and reward goes on from there, to the same adapter as if it had never stopped. So an app may
 * cancel it at any time, and the system may end the app.
 */
public class AdaptJob private constructor(private val raw: Raw, private val callbacks: Callbacks) : AutoCloseable {
    /**
     * Trains to the last step while it is collected, and tells of it. A flow that failed or was cancelled goes on from there
     * when it is collected again.
     *
     * Cancelling ends the work within a unit of it, a fraction of a second for most (`docs/cancellation.md`), after a checkpoint;
     * the collector's scope waits for that. Of [Progress.Sampling] and [Progress.Learning], slow collectors miss some.
     *
     * @throws OwletException of kind `CALLBACK` where the reward threw, with its exception as the cause; `DIVERGED`; `BUSY` when it
     *     runs already.
     */
    public fun run(): Flow<Progress> {
        val behind = AtomicInteger()
        val events = channelFlow {
            finish { progress ->
                val isCount = progress is Progress.Sampling || progress is Progress.Learning
                if (!isCount || behind.get() < MOST_BEHIND) {
                    behind.incrementAndGet()
                    trySend(progress)
                }
            }
        }
        return events.buffer(Channel.UNLIMITED).onEach { behind.decrementAndGet() }
    }

    /**
     * Trains to the last step and returns what it came to; see [run].
     *
     * @param onProgress hears of it on the job's thread. What it throws ends the run, and is the cause of the error.
     */
    public suspend fun finish(onProgress: ((Progress) -> Unit)? = null): AdaptReport {
        val sink = onProgress?.let { hear ->
            object : ProgressSink {
                override fun onProgress(progress: RawProgress): Unit = callbacks.call { hear(progress.raised()) }
            }
        }
        return callbacks.explaining { cancellable { token -> raw.run(sink, token) } }
    }

    /** Has the job rest, within a fraction of a second, and write a checkpoint then. Whoever runs it goes on waiting. */
    public fun pause(): Unit = raw.pause()

    /** Has the job go on. */
    public fun resume(): Unit = raw.resume()

    /** What it is doing. */
    public val state: JobState get() = raw.state()

    /** Steps done, those of earlier processes included. */
    public suspend fun stepsDone(): Long = translating { raw.nStepsDone().toLong() }

    /** Writes the adapter as it is after the last complete step to [path], as a GGUF file that llama.cpp loads too. */
    public suspend fun writeAdapter(path: String): Unit = translating { raw.writeAdapter(path) }

    /** The same without a file, for sessions of the model. */
    public suspend fun adapter(): Adapter = translating { Adapter(raw.adapter()) }

    /**
     * Asks every sample of [data] once, greedily, with the adapter as it is after the last complete step, and scores the answers
     * by the job's reward. Training waits meanwhile.
     */
    public suspend fun evaluate(data: Dataset): EvaluationReport =
        callbacks.explaining { cancellable { token -> raw.evaluate(data.raw, token) } }

    /** Ends the job and frees its memory. A run under way is finished first, on its own thread: cancel it to stop it. */
    override fun close(): Unit = raw.close()

    public companion object {
        /**
         * Prepares training over [model] with [data].
         *
         * @param reward scores the answers; without one, Owlet's own rules for the problem types.
         * @param folder keeps checkpoints and `metrics.jsonl`; without one nothing is kept.
         * @param begin whether to go on from the folder.
         * @param start an adapter file to begin with; without one, a fresh adapter.
         * @throws OwletException of kind `INVALID_INPUT` for options out of range; `CONTEXT_OVERFLOW` for a question that is too
         *     long; `UNSUPPORTED` for a model that cannot be trained; `LIMIT` when it does not fit the memory budget; `BUSY` when
         *     another job has the folder; `MISMATCH` for a folder of another run.
         */
        public suspend fun open(
            model: Model,
            data: Dataset,
            options: AdaptOptions = AdaptOptions(),
            reward: Reward? = null,
            folder: String? = null,
            begin: Begin = Begin.RESUME_IF_ANY,
            start: String? = null,
        ): AdaptJob {
            val callbacks = Callbacks()
            val lowered = reward?.lowered(callbacks)
            return cancellable { token ->
                AdaptJob(Raw.open(model.raw, data.raw, options, lowered, folder, begin, start, token), callbacks)
            }
        }
    }
}
