package dev.owlet

import java.util.concurrent.TimeUnit
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Test

/** A program that calls lambdas from Owlet's threads, which are no daemons, and returns from `main` without `exit`. */
object Program {
    @JvmStatic
    fun main(arguments: Array<String>): Unit = runBlocking {
        Model.load(Fixtures.modelPath, ModelOptions(mmproj = Fixtures.projectorPath)) {}.use { model ->
            model.session(SessionTest.greedy()).use { session -> session.answer(Message("Which color?")) { true } }
        }
    }
}

class ProgramTest {
    @Test
    fun `a program that closed what it opened ends`() {
        val java = ProcessHandle.current().info().command().orElse("java")
        val settings = listOf("jna.library.path", "owlet.models").map { "-D$it=${System.getProperty(it)}" }
        val classPath = System.getProperty("java.class.path")
        val program = ProcessBuilder(listOf(java, "-cp", classPath) + settings + "dev.owlet.Program").inheritIO().start()
        try {
            assertTrue(program.waitFor(60, TimeUnit.SECONDS), "it still runs")
            assertEquals(0, program.exitValue())
        } finally {
            program.destroyForcibly()
        }
    }
}
