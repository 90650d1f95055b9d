package dev.owlet

import dev.owlet.Fixtures.drawing
import dev.owlet.Fixtures.model
import dev.owlet.Fixtures.modelPath
import dev.owlet.Fixtures.png
import dev.owlet.Fixtures.projectorPath
import dev.owlet.SessionTest.Companion.QUESTION
import java.awt.Color
import java.nio.file.Files
import java.util.Collections
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertSame
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test

class ModelTest {
    @Test
    fun `a model tells what it is and how far it is loaded`() = bounded {
        val progress = Collections.synchronizedList(mutableListOf<Float>())
        Model.load(modelPath, ModelOptions(mmproj = projectorPath), progress::add).use { model ->
            assertEquals("qwen3vl", model.info.architecture)
            assertTrue(model.info.hasVision)
            assertEquals(progress.sorted(), progress)
            assertEquals(1f, progress.last())
            assertTrue(model.placement.gpus.isEmpty() == (model.placement.whyNoGpu != null))
        }
    }

    @Test
    fun `devices and version are told`() = bounded {
        assertTrue(Owlet.devices().any { it.kind == DeviceKind.CPU })
        assertTrue(Regex("""\d+\.\d+\.\d+.*""").matches(Owlet.version), Owlet.version)
    }

    @Test
    fun `what is no model is told with its place`() = bounded {
        val missing = expectFailure(ErrorKind.NOT_FOUND) { Model.load("/no/such/model.gguf") }
        assertContains(missing.place!!, "/no/such/model.gguf")
        assertContains(missing.message!!, "/no/such/model.gguf")
        val file = Files.createTempFile("owlet", ".gguf")
        Files.write(file, "no model".toByteArray())
        expectFailure(ErrorKind.INVALID_FILE) { Model.load(file.toString()) }
        Files.delete(file)
    }

    @Test
    fun `what a progress listener throws is the cause of the error`() = bounded {
        val thrown = OutOfMemoryError("not really")
        val failure = expectFailure(ErrorKind.CALLBACK) { Model.load(modelPath) { throw thrown } }
        assertSame(thrown, failure.cause)
    }

    @Test
    fun `several answers are sampled over one prompt`() = bounded {
        Image.decode(png(drawing("circle", Color.GREEN))).use { image ->
            val heard = Collections.synchronizedMap(mutableMapOf<Int, String>())
            val answer = AnswerOptions(maxNewTokens = 64u)
            val options = GenerateOptions(n = 4, answer = answer, seed = 7uL, session = SessionOptions(nThreads = 1u))
            val answers = model.generate(Prompt(QUESTION, image), options) { sample, text ->
                heard.merge(sample, text, String::plus)
                true
            }
            assertEquals(4, answers.size)
            assertEquals(setOf(0, 1, 2, 3), heard.keys)
            val again = model.generate(Prompt(QUESTION, image), options)
            assertEquals(answers.map { it.tokens }, again.map { it.tokens }, "the same seed")
        }
    }

    @Test
    fun `the right answer is the more probable one`() = bounded {
        Image.decode(png(drawing("circle", Color.RED))).use { image ->
            val completions = listOf("<thinking>quick look.</thinking><answer>red", "<thinking>quick look.</thinking><answer>blue")
            val (red, blue) = model.score(Prompt(QUESTION, image), completions, ScoreOptions(SessionOptions(nThreads = 1u)))
            assertTrue(red.sum > blue.sum, "$red $blue")
            assertEquals(red.sum, red.logprobs.sumOf { it.toDouble() }, 1e-3)
        }
    }

    @Test
    fun `boxes go to pixels and back`() = bounded {
        Image.decode(png(drawing(size = 256))).use { image ->
            val pixels = model.boxToPixels(image, BoundingBox(250.0, 500.0, 750.0, 1000.0))
            assertEquals(BoundingBox(64.0, 128.0, 192.0, 256.0), pixels)
            assertEquals(500.0, model.boxToModel(image, pixels).y1, 1e-9)
        }
    }

    @Test
    fun `memory is planned without loading, and refused with numbers`() = bounded {
        val plan = Plan.inference(modelPath, projectorPath)
        assertEquals(plan.peakBytes, plan.parts.sumOf { it.nBytes })
        assertTrue(plan.mappedBytes > 5_000_000uL)
        val request = InferenceRequest(session = SessionOptions(memoryBudgetBytes = 1_000_000uL))
        val failure = expectFailure(ErrorKind.LIMIT) { Plan.inference(modelPath, projectorPath, request) }
        assertTrue(failure.got != null && failure.needed != null, failure.message)
        assertTrue(Plan.adaptation(modelPath, projectorPath).peakBytes > 0uL)
    }

    @Test
    fun `a closed model says so, and its session goes on`() = bounded {
        val model = Model.load(modelPath, ModelOptions(mmproj = projectorPath))
        val session = model.session(SessionTest.greedy())
        model.close()
        assertFailsWith<IllegalStateException> { model.info }
        session.use { it.answer("Which color?") }
    }

    @Test
    fun `the log comes to the app`() = bounded {
        val lines = Collections.synchronizedList(mutableListOf<String>())
        Owlet.setLog(LogLevel.DEBUG) { level, target, text -> lines.add("$level $target $text") }
        Model.load(modelPath, ModelOptions(mmproj = projectorPath)).close()
        Owlet.clearLog()
        assertTrue(lines.isNotEmpty())
    }
}
