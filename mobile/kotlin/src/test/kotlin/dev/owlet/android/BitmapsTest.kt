package dev.owlet.android

import android.graphics.Bitmap
import dev.owlet.Alpha
import dev.owlet.Fixtures
import dev.owlet.Image
import dev.owlet.Orientation
import dev.owlet.Prompt
import dev.owlet.ScoreOptions
import dev.owlet.SessionOptions
import dev.owlet.bounded
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test

/** Over stubs of Android's classes: the helpers were compiled and run, but never on Android. */
class BitmapsTest {
    private val drawing = Fixtures.drawing(size = 128)
    private val pixels = Fixtures.rgba(drawing)

    private fun bitmap(config: Bitmap.Config, premultiplied: Boolean = true) = Bitmap.over(128, 128, config, premultiplied, pixels)

    @Test
    fun `a bitmap is the same picture as the file`() = bounded {
        val answer = listOf("<thinking>I see red circle.")
        val score: suspend (Image) -> Double = { image ->
            val options = ScoreOptions(SessionOptions(nThreads = 1u))
            Fixtures.model.score(Prompt("What color is the circle?", image), answer, options).single().sum
        }
        val expected = Image.decode(Fixtures.png(drawing)).use { score(it) }
        for (config in Bitmap.Config.entries) bitmap(config).toOwletImage().use { assertEquals(expected, score(it), "$config") }
        bitmap(Bitmap.Config.ARGB_8888, premultiplied = false).toOwletImage(Alpha.OVER_WHITE).use { assertEquals(expected, score(it)) }
    }

    @Test
    fun `only copies are recycled`() = bounded {
        for (config in Bitmap.Config.entries) {
            val bitmap = bitmap(config)
            bitmap.toOwletImage(orientation = Orientation.ROTATE90).close()
            assertTrue(!bitmap.isRecycled)
        }
        val gone = bitmap(Bitmap.Config.ARGB_8888).apply { recycle() }
        assertFailsWith<IllegalStateException> { gone.toOwletImage() }
    }
}
