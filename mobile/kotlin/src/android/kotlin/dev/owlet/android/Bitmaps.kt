package dev.owlet.android

import android.graphics.Bitmap
import dev.owlet.Alpha
import dev.owlet.Image
import dev.owlet.Orientation
import dev.owlet.PixelFormat
import java.nio.ByteBuffer
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext

/**
 * The picture of this bitmap, for a question.
 *
 * Bitmaps of `ARGB_8888` are read as they lie in memory; all other configurations, those on the GPU
 * (`HARDWARE`) included, are first copied to it by Android. The bitmap is not kept: it may be changed or recycled afterwards.
 *
 * @param alpha what becomes of transparent parts; see [Alpha].
 * @param orientation how the stored pixels are turned, as the photo's EXIF data says; bitmaps are upright by themselves.
 * @throws IllegalStateException where the bitmap was recycled, or Android has no memory for the copy.
 * @throws dev.owlet.OwletException of kind `LIMIT` where it has more pixels than a picture may have.
 */
public suspend fun Bitmap.toOwletImage(
    alpha: Alpha = Alpha.DROP,
    orientation: Orientation = Orientation.UPRIGHT,
): Image {
    check(!isRecycled) { "the bitmap was recycled" }
    val plain = if (config == Bitmap.Config.ARGB_8888) this else withContext(Dispatchers.Default) { unpacked() }
    try {
        val pixels = ByteBuffer.allocateDirect(plain.rowBytes * plain.height)
        plain.copyPixelsToBuffer(pixels)
        pixels.flip()
        return Image.pixels(
            pixels,
            width = plain.width,
            height = plain.height,
            stride = plain.rowBytes,
            // The bytes of ARGB_8888 lie in the order R, G, B, A, whatever the name says.
            format = PixelFormat.RGBA8,
            isPremultiplied = plain.isPremultiplied,
            orientation = orientation,
            alpha = alpha,
        )
    } finally {
        if (plain !== this) plain.recycle()
    }
}

private fun Bitmap.unpacked(): Bitmap =
    checkNotNull(copy(Bitmap.Config.ARGB_8888, false)) { "Android could not copy a bitmap of $width x $height pixels" }
