package dev.owlet

import dev.owlet.ffi.RawPixels
import java.nio.ByteBuffer
import dev.owlet.ffi.Image as Raw

/** What becomes of pixels that are not opaque. */
public typealias Alpha = dev.owlet.ffi.Alpha

/** Order of the bytes of a pixel. */
public typealias PixelFormat = dev.owlet.ffi.PixelFormat

/** How a stored picture must be turned to be seen upright: the eight ways of EXIF. */
public typealias Orientation = dev.owlet.ffi.Orientation

/**
 * A decoded, upright picture. It may be shown in any number of questions, and closed as soon as these have been asked.
 *
 * Safe to use from several threads.
 */
public class Image private constructor(internal val raw: Raw) : AutoCloseable {
    /** Pixels per row, upright. */
    public val width: Int get() = raw.width().toInt()

    /** Number of rows, upright. */
    public val height: Int get() = raw.height().toInt()

    /** Frees the pixels. Calls that were given this picture before keep what they need. */
    override fun close(): Unit = raw.close()

    /** Its size; never what it shows. */
    override fun toString(): String = "Image(${width}x$height)"

    public companion object {
        /**
         * Decodes [file], the bytes of a PNG, JPEG, WebP, GIF or BMP file, and turns it upright by its EXIF data.
         *
         * @throws OwletException of kind `INVALID_FILE` for bytes that are no such file, `LIMIT` for more than 2^26 pixels.
         */
        public suspend fun decode(file: ByteArray, alpha: Alpha = Alpha.DROP): Image =
            blocking { Image(Raw.fromBytes(file, alpha)) }

        /** Decodes the bytes of a file between position and limit of [file], whose position stays where it is. */
        public suspend fun decode(file: ByteBuffer, alpha: Alpha = Alpha.DROP): Image = decode(file.bytes(), alpha)

        /** Reads and decodes the file at [path]. */
        public suspend fun open(path: String, alpha: Alpha = Alpha.DROP): Image = blocking { Image(Raw.open(path, alpha)) }

        /**
         * Takes pixels that the app has decoded: camera frames, bitmaps. They are copied; the position of [pixels] stays
         * where it is.
         *
         * @param pixels rows from the top, between position and limit; bytes behind the last pixel of the last row may be missing.
         * @param stride bytes from the start of a row to that of the next one; 0, the default, for rows without a gap.
         * @param isPremultiplied colours are multiplied by alpha already, as in Android's bitmaps.
         * @throws OwletException of kind `INVALID_INPUT` where the numbers do not fit the bytes.
         */
        public suspend fun pixels(
            pixels: ByteBuffer,
            width: Int,
            height: Int,
            stride: Int = 0,
            format: PixelFormat = PixelFormat.RGBA8,
            isPremultiplied: Boolean = false,
            orientation: Orientation = Orientation.UPRIGHT,
            alpha: Alpha = Alpha.DROP,
        ): Image {
            require(width >= 0 && height >= 0 && stride >= 0) { "negative size: $width x $height, $stride bytes a row" }
            val raw = RawPixels(
                bytes = pixels.bytes(),
                width = width.toUInt(),
                height = height.toUInt(),
                format = format,
                stride = stride.toULong(),
                isPremultiplied = isPremultiplied,
                orientation = orientation,
            )
            return blocking { Image(Raw.fromPixels(raw, alpha)) }
        }
    }
}

private fun ByteBuffer.bytes(): ByteArray = ByteArray(remaining()).also { duplicate().get(it) }
