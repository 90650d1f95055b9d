package dev.owlet

import java.awt.Color
import java.awt.RenderingHints
import java.awt.image.BufferedImage
import java.io.ByteArrayOutputStream
import java.io.File
import javax.imageio.ImageIO
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.jupiter.api.Assertions.assertTrue

/** The embedded model and pictures as its tasks have them: shapes on a light ground, 128 x 128. */
object Fixtures {
    private val models = File(System.getProperty("owlet.models"))
    val modelPath: String = File(models, "owlet-tiny-F16.gguf").path
    val projectorPath: String = File(models, "mmproj-owlet-tiny-F16.gguf").path

    /** Loaded once for all tests; a model may be shared. */
    val model: Model by lazy { runBlocking { Model.load(modelPath, ModelOptions(mmproj = projectorPath)) } }

    fun drawing(shape: String = "circle", color: Color = Color.RED, size: Int = 128): BufferedImage {
        val drawing = BufferedImage(size, size, BufferedImage.TYPE_INT_RGB)
        val pen = drawing.createGraphics()
        pen.setRenderingHint(RenderingHints.KEY_ANTIALIASING, RenderingHints.VALUE_ANTIALIAS_ON)
        pen.color = Color(0xF0, 0xF0, 0xF0)
        pen.fillRect(0, 0, size, size)
        pen.color = color
        val (at, side) = size / 4 to size / 2
        if (shape == "circle") pen.fillOval(at, at, side, side) else pen.fillRect(at, at, side, side)
        pen.dispose()
        return drawing
    }

    fun png(drawing: BufferedImage = drawing()): ByteArray =
        ByteArrayOutputStream().also { ImageIO.write(drawing, "png", it) }.toByteArray()

    /** The pixels as R, G, B, A. */
    fun rgba(drawing: BufferedImage): ByteArray {
        val bytes = ByteArray(4 * drawing.width * drawing.height)
        for (y in 0 until drawing.height) for (x in 0 until drawing.width) {
            val pixel = drawing.getRGB(x, y)
            val at = 4 * (y * drawing.width + x)
            bytes[at] = (pixel shr 16).toByte()
            bytes[at + 1] = (pixel shr 8).toByte()
            bytes[at + 2] = pixel.toByte()
            bytes[at + 3] = (pixel ushr 24).toByte()
        }
        return bytes
    }
}

/** Runs a test with an end: one that hangs fails. */
fun bounded(seconds: Int = 120, body: suspend CoroutineScope.() -> Unit): Unit =
    runBlocking(Dispatchers.Default) { withTimeout(seconds.seconds) { body() } }

/** Runs [body], which must fail with an error of [kind], and returns the error. */
suspend fun expectFailure(kind: ErrorKind, body: suspend () -> Unit): OwletException {
    val failure = try {
        body()
        null
    } catch (failure: OwletException) {
        failure
    }
    checkNotNull(failure) { "nothing failed, $kind was expected" }
    assertTrue(failure.kind == kind) { "expected $kind, got ${failure.kind}: ${failure.message}" }
    return failure
}
