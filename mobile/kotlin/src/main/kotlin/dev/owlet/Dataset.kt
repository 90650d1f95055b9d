package dev.owlet

import dev.owlet.ffi.Dataset as Raw
import dev.owlet.ffi.Sample as RawSample
import dev.owlet.ffi.SampleImage as RawSampleImage

/** How an answer is scored by Owlet's own rules. */
public typealias ProblemType = dev.owlet.ffi.ProblemType

/** The ability that a sample trains. */
public typealias TaskType = dev.owlet.ffi.TaskType

/** A picture of a sample. */
public sealed interface SampleImage {
    /**
     * A file, which is read whenever its sample is asked.
     *
     * @property path of a PNG, JPEG, WebP, GIF or BMP file.
     */
    public data class File(public val path: String) : SampleImage

    /**
     * A file in memory: the least memory for pictures that must not be on the disk.
     *
     * @property bytes of a PNG, JPEG, WebP, GIF or BMP file.
     */
    public class Encoded(public val bytes: ByteArray) : SampleImage

    /**
     * A decoded picture. Its pixels take memory for the whole run.
     *
     * @property image may be closed when the data set is made.
     */
    public data class Pixels(public val image: Image) : SampleImage
}

/**
 * One problem with its truth.
 *
 * @property id its name in reports.
 * @property problem the question, together with the options with one `<image>` for every picture.
 * @property answer the truth.
 * @property problemType how it is scored, unless the app has a reward of its own.
 * @property images its pictures, in the order of the marks.
 * @property options of a multiple choice, such as `A. cat`.
 * @property taskType which ability it trains; reports are by it.
 */
public data class Sample(
    public val id: String,
    public val problem: String,
    public val answer: String,
    public val problemType: ProblemType,
    public val images: List<SampleImage> = emptyList(),
    public val options: List<String> = emptyList(),
    public val taskType: TaskType = TaskType.GENERAL_VQA,
) {
    internal fun lowered(): RawSample =
        RawSample(id, problem, answer, problemType, taskType, images.map { it.lowered() }, options)
}

/** Samples to train on, or to be held out; checked as they are read. */
public class Dataset private constructor(internal val raw: Raw) : AutoCloseable {
    /** Number of samples. */
    public val size: Int get() = raw.nSamples().toInt()

    /** Lets go of the samples. Jobs over them keep them. */
    override fun close(): Unit = raw.close()

    public companion object {
        /**
         * Reads a `.jsonl` file (one object a line) or a `.json` file (an array), with pictures beside it.
         *
         * @throws OwletException of kind `NOT_FOUND`, `IO`; `INVALID_FILE` and `UNSUPPORTED` for a bad row, with its line.
         */
        public suspend fun open(path: String): Dataset = blocking { Dataset(Raw.open(path)) }

        /**
         * A data set of samples that the app makes.
         *
         * @throws OwletException of kind `INVALID_FILE` for a sample whose marks do not fit its pictures or whose pictures are
         *     none; `NOT_FOUND`, `IO`.
         */
        public suspend fun of(samples: List<Sample>): Dataset =
            blocking { Dataset(Raw.fromSamples(samples.map { it.lowered() })) }
    }
}

private fun SampleImage.lowered(): RawSampleImage =
    when (this) {
        is SampleImage.File -> RawSampleImage.File(path)
        is SampleImage.Encoded -> RawSampleImage.Encoded(bytes)
        is SampleImage.Pixels -> RawSampleImage.Pixels(image.raw)
    }
