package dev.owlet

import dev.owlet.Fixtures.drawing
import dev.owlet.Fixtures.png
import dev.owlet.Fixtures.rgba
import java.io.File
import java.nio.ByteBuffer
import java.nio.file.Files
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test

class ImageTest {
    @Test
    fun `bytes, buffers and files give the same picture`() = bounded {
        val bytes = png(drawing(size = 96))
        val file = Files.createTempFile("owlet", ".png").toFile()
        file.writeBytes(bytes)
        val direct = ByteBuffer.allocateDirect(bytes.size + 7).position(7).put(bytes).position(7)
        for (image in listOf(Image.decode(bytes), Image.decode(direct), Image.open(file.path))) {
            image.use { assertEquals("Image(96x96)", it.toString()) }
        }
        assertEquals(7, direct.position(), "the caller's buffer is left as it was")
        assertTrue(file.delete())
    }

    @Test
    fun `pixels come with strides and orientations`() = bounded {
        val drawing = drawing(size = 64)
        val stride = 4 * 64 + 12
        val rows = ByteBuffer.allocate(stride * 64)
        rgba(drawing).toList().chunked(4 * 64).forEachIndexed { y, row -> rows.put(y * stride, row.toByteArray()) }
        Image.pixels(rows, width = 64, height = 32, stride = stride, orientation = Orientation.ROTATE90).use {
            assertEquals(32 to 64, it.width to it.height)
        }
    }

    @Test
    fun `numbers that do not fit the pixels are refused`() = bounded {
        val tooFew = ByteBuffer.allocate(100)
        val failure = expectFailure(ErrorKind.INVALID_INPUT) { Image.pixels(tooFew, width = 64, height = 64) }
        assertTrue("100" in failure.message!!, failure.message)
        expectFailure(ErrorKind.INVALID_INPUT) { Image.pixels(tooFew, width = 0, height = 0) }
        assertThrows(IllegalArgumentException::class.java) { bounded { Image.pixels(tooFew, width = -1, height = 4) } }
    }

    @Test
    fun `what is no picture is told with its place`() = bounded {
        expectFailure(ErrorKind.INVALID_FILE) { Image.decode("no picture".toByteArray()) }
        expectFailure(ErrorKind.INVALID_FILE) { Image.decode(png().copyOf(60)) }
        val failure = expectFailure(ErrorKind.NOT_FOUND) { Image.open("/no/such/picture.png") }
        assertTrue(File("/no/such/picture.png").path in failure.place!!, failure.place)
    }

    @Test
    fun `a closed picture says so`() = bounded {
        val image = Image.decode(png())
        image.close()
        image.close()
        assertThrows(IllegalStateException::class.java) { image.width }
    }
}
