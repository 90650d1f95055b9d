package dev.owlet

import dev.owlet.Fixtures.drawing
import dev.owlet.Fixtures.model
import dev.owlet.Fixtures.png
import java.awt.Color
import java.nio.file.Files
import java.nio.file.Path
import kotlin.io.path.ExperimentalPathApi
import kotlin.io.path.deleteRecursively
import kotlin.test.assertEquals
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertSame
import kotlin.test.assertTrue
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Test

class GateTest {
    private val folder: Path = Files.createTempDirectory("owlet-gate")

    @OptIn(ExperimentalPathApi::class)
    @AfterEach
    fun clean() = folder.deleteRecursively()

    private val samples = listOf("red" to Color.RED, "blue" to Color.BLUE).mapIndexed { index, (name, color) ->
        Sample("$index", "<image>What color is it?", name, ProblemType.OCR, listOf(SampleImage.Encoded(png(drawing(color = color)))))
    }
    private val options = AdaptOptions(nSteps = 1uL, promptsPerStep = 2u, groupSize = 4u, maxNewTokens = 32u, nThreads = 1u, rank = 2u)
    private val rule = GateRule(minSamples = 2u, leastGain = -1.0, mostLoss = 1.0)

    private suspend fun candidate(data: Dataset): String {
        val lengths = Reward("length") { response, _ -> RewardParts(accuracy = (response.length % 5) / 4.0) }
        return AdaptJob.open(model, data, options, lengths).use { job ->
            job.finish()
            "$folder/candidate.gguf".also { job.writeAdapter(it) }
        }
    }

    @Test
    fun `an adapter goes live by held-out samples, and back`() = bounded {
        val data = Dataset.of(samples)
        val candidate = candidate(data)
        AdapterGate.open("$folder/gate", rule).use { gate ->
            assertNull(gate.active())
            val verdict = gate.consider(candidate, model, data, options)
            assertTrue(verdict.isAccepted, "${verdict.reasons}")
            assertEquals(2u, verdict.nSamples)
            assertTrue(gate.hasCandidate())
            val live = gate.activate()
            assertEquals(live, gate.active())
            assertEquals(live, AdapterGate.active("$folder/gate"), "for those who only use it")
            model.adapter(live).close()
            assertNull(gate.rollback())
            expectFailure(ErrorKind.NOT_FOUND) { gate.rollback() }
        }
    }

    @Test
    fun `what is not better does not go live`() = bounded {
        val data = Dataset.of(samples)
        val candidate = candidate(data)
        AdapterGate.open("$folder/gate", GateRule(minSamples = 2u, leastGain = 0.9)).use { gate ->
            val verdict = gate.consider(candidate, model, data, options)
            assertTrue(!verdict.isAccepted && verdict.reasons.isNotEmpty())
            expectFailure(ErrorKind.NOT_FOUND) { gate.activate() }
            assertNull(gate.active())
        }
    }

    @Test
    fun `misuse is told`() = bounded {
        val data = Dataset.of(samples)
        val candidate = candidate(data)
        AdapterGate.open("$folder/gate").use { gate ->
            expectFailure(ErrorKind.BUSY) { AdapterGate.open("$folder/gate") }
            expectFailure(ErrorKind.INVALID_INPUT) { gate.consider(candidate, model, data, options) }
        }
        AdapterGate.open("$folder/gate", rule).use { gate ->
            val thrown = IllegalStateException("no rule")
            val failure = expectFailure(ErrorKind.CALLBACK) {
                gate.consider(candidate, model, data, options, Reward("broken") { _, _ -> throw thrown })
            }
            assertSame(thrown, assertNotNull(failure.cause))
        }
    }
}
