package dev.owlet

import dev.owlet.Fixtures.drawing
import dev.owlet.Fixtures.model
import dev.owlet.Fixtures.png
import dev.owlet.SessionTest.Companion.QUESTION
import dev.owlet.SessionTest.Companion.greedy
import java.awt.Color
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.atomic.AtomicInteger
import kotlin.io.path.ExperimentalPathApi
import kotlin.io.path.deleteRecursively
import kotlin.io.path.exists
import kotlin.io.path.readBytes
import kotlin.test.assertContains
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotEquals
import kotlin.test.assertSame
import kotlin.test.assertTrue
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Test

class AdaptTest {
    private val folder: Path = Files.createTempDirectory("owlet-adapt")

    @OptIn(ExperimentalPathApi::class)
    @AfterEach
    fun clean() = folder.deleteRecursively()

    private val samples = listOf("red" to Color.RED, "blue" to Color.BLUE, "green" to Color.GREEN, "red" to Color.RED).mapIndexed { index, (name, color) ->
        val shape = if (index % 2 == 0) "circle" else "square"
        val picture = SampleImage.Encoded(png(drawing(shape, color)))
        Sample("$index", "<image>What color is the $shape?", name, ProblemType.OCR, listOf(picture))
    }

    /** Prefers answers that look first: the embedded model gives both kinds. */
    private val careful = Reward("careful 1") { response, _ ->
        RewardParts(accuracy = if ("I see" in response) 1.0 else 0.0, format = 1.0)
    }

    private fun options(steps: ULong) = AdaptOptions(
        nSteps = steps,
        promptsPerStep = 2u,
        groupSize = 4u,
        maxNewTokens = 48u,
        rank = 4u,
        learningRate = 2e-3,
        suffix = "Reply with <thinking> and <answer>.",
        keepAllGroups = true,
        nThreads = 1u,
        seed = 3uL,
    )

    @Test
    fun `an adapter is trained by a reward of the app, swapped in, written and read`() = bounded {
        val data = Dataset.of(samples)
        assertEquals(4, data.size)
        AdaptJob.open(model, data, options(3uL), careful, folder = "$folder/run").use { job ->
            assertEquals(JobState.IDLE, job.state)
            val events = job.run().toList()
            val steps = events.filterIsInstance<Progress.StepDone>()
            assertEquals(listOf(0uL, 1uL, 2uL), steps.map { it.metrics.step })
            assertTrue(steps.all { it.metrics.gradNorm != null }, "$steps")
            assertTrue(events.any { it is Progress.Sampling } && events.any { it is Progress.Checkpoint })
            assertEquals(3L, job.stepsDone())
            assertEquals(JobState.DONE, job.state)

            val file = "$folder/adapter.gguf"
            job.writeAdapter(file)
            job.adapter().use { adapter ->
                assertEquals(4uL, adapter.info.rank)
                assertTrue(adapter.checkEffect() > 0f)
                model.session(greedy()).use { session ->
                    val before = session.answer(QUESTION)
                    session.setAdapters(listOf(ActiveAdapter(adapter, scale = 3f)))
                    val under = session.answer(QUESTION)
                    assertNotEquals(before.logprobs.take(4), under.logprobs.take(4))
                    session.setAdapters()
                    session.answer(QUESTION)
                }
                model.adapter(file).use { read ->
                    assertEquals(adapter.info.nParams, read.info.nParams)
                    model.adapter(Path.of(file).readBytes()).use { assertEquals(read.info.hash, it.info.hash) }
                }
            }
            val report = job.evaluate(data)
            assertEquals(4, report.answers.size)
            assertTrue(report.reward.low <= report.reward.mean && report.reward.mean <= report.reward.high)
        }
        assertTrue(Path.of("$folder/run/metrics.jsonl").exists())
    }

    @Test
    fun `a job that was cancelled goes on to the same adapter`() = bounded {
        val data = Dataset.of(samples)
        AdaptJob.open(model, data, options(2uL), careful).use {
            it.finish()
            it.writeAdapter("$folder/whole.gguf")
        }
        AdaptJob.open(model, data, options(2uL), careful, folder = "$folder/run").use { job ->
            val begun = CompletableDeferred<Unit>()
            val run = launch { job.run().collect { if (it is Progress.Sampling) begun.complete(Unit) } }
            begun.await()
            run.cancelAndJoin()
            assertEquals(JobState.IDLE, job.state)
            // A flow that takes enough is cancelled as well.
            job.run().first { it is Progress.StepDone }
        }
        AdaptJob.open(model, data, options(2uL), careful, folder = "$folder/run", begin = Begin.RESUME).use { job ->
            val report = job.finish()
            assertEquals(2uL, report.nSteps)
            job.writeAdapter("$folder/resumed.gguf")
        }
        assertContentEquals(Path.of("$folder/whole.gguf").readBytes(), Path.of("$folder/resumed.gguf").readBytes())
    }

    @Test
    fun `a job rests while it is paused`() = bounded {
        AdaptJob.open(model, Dataset.of(samples), options(2uL), careful, folder = "$folder/run").use { job ->
            val resting = CompletableDeferred<Unit>()
            val report = async {
                job.finish {
                    if (it is Progress.Sampling && !resting.isCompleted) job.pause()
                    if (it is Progress.Paused) resting.complete(Unit)
                }
            }
            resting.await()
            assertEquals(JobState.PAUSED, job.state)
            delay(100)
            assertTrue(report.isActive)
            job.resume()
            assertEquals(2uL, report.await().nSteps)
        }
    }

    @Test
    fun `what a reward throws ends the run, which can go on`() = bounded {
        val thrown = IllegalStateException("no network")
        val calls = AtomicInteger()
        val flaky = Reward("flaky") { _, _ ->
            if (calls.incrementAndGet() == 3) throw thrown
            RewardParts(accuracy = calls.get() % 2.0)
        }
        AdaptJob.open(model, Dataset.of(samples), options(1uL), flaky).use { job ->
            val failure = expectFailure(ErrorKind.CALLBACK) { job.finish() }
            assertSame(thrown, failure.cause)
            assertContains(failure.message!!, "no network")
            assertEquals(1uL, job.finish().nSteps)
        }
    }

    @Test
    fun `rewards are called on threads that stay attached`() = bounded {
        val threads = java.util.Collections.synchronizedMap(mutableMapOf<Thread, Int>())
        val reward = Reward("threads") { response, _ ->
            threads.merge(Thread.currentThread(), 1, Int::plus)
            RewardParts(accuracy = response.length % 2.0)
        }
        AdaptJob.open(model, Dataset.of(samples), options(2uL), reward).use { it.finish() }
        assertEquals(16, threads.values.sum())
        assertTrue(threads.size < 16, "a thread for every call: $threads")
    }

    @Test
    fun `what cannot be trained is told before any work`() = bounded {
        expectFailure(ErrorKind.INVALID_INPUT) { AdaptJob.open(model, Dataset.of(samples), options(1uL).copy(groupSize = 1u)) }
        expectFailure(ErrorKind.CONTEXT_OVERFLOW) { AdaptJob.open(model, Dataset.of(samples), options(1uL).copy(maxPromptTokens = 8u)) }
        val broken = Sample("x", "<image><image>Two marks, one picture", "1", ProblemType.NUMERICAL, samples[0].images)
        expectFailure(ErrorKind.INVALID_FILE) { Dataset.of(listOf(broken)) }
        expectFailure(ErrorKind.NOT_FOUND) { Dataset.open("$folder/none.jsonl") }
        AdaptJob.open(model, Dataset.of(samples), options(1uL), careful, "$folder/run").use {
            expectFailure(ErrorKind.BUSY) { AdaptJob.open(model, Dataset.of(samples), options(1uL), careful, "$folder/run") }
        }
    }

    @Test
    fun `a closed job says so`() = bounded {
        val job = AdaptJob.open(model, Dataset.of(samples), options(1uL), careful)
        job.close()
        assertFailsWith<IllegalStateException> { job.state }
        assertFailsWith<IllegalStateException> { job.finish() }
    }
}
