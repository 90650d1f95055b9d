package dev.owlet

import dev.owlet.Fixtures.drawing
import dev.owlet.Fixtures.model
import dev.owlet.Fixtures.png
import java.awt.Color
import java.nio.file.Files
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertIs
import kotlin.test.assertSame
import kotlin.test.assertTrue
import kotlinx.coroutines.flow.toList
import org.junit.jupiter.api.Test

class SessionTest {
    @Test
    fun `an answer about a picture is streamed and then whole`() = bounded {
        model.session(greedy()).use { session ->
            Image.decode(png(drawing("circle", Color.BLUE))).use { image ->
                val events = session.ask(QUESTION, image).toList()
                val turn = assertIs<AnswerEvent.Done>(events.last()).turn
                val texts = events.dropLast(1)
                assertTrue(texts.size > 3, "in pieces: $texts")
                assertEquals(turn.thinking, texts.filterIsInstance<AnswerEvent.Thinking>().joinToString("") { it.text })
                assertEquals(turn.answer, texts.filterIsInstance<AnswerEvent.Answer>().joinToString("") { it.text })
                assertTrue(turn.answer.isNotBlank())
                assertEquals(StopReason.EndOfAnswer, turn.stop)
                assertEquals(turn.report.nAnswerTokens.toInt(), turn.tokens.size)
                assertEquals(listOf(Role.USER to 1u, Role.ASSISTANT to 0u), session.messages.map { it.role to it.nImages })
            }
        }
    }

    @Test
    fun `a cold flow asks once for every collection`() = bounded {
        model.session(greedy()).use { session ->
            val flow = session.ask("Which color?")
            assertEquals(0, session.messages.size)
            flow.collect {}
            flow.collect {}
            assertEquals(4, session.messages.size)
        }
    }

    @Test
    fun `what was computed is not computed again`() = bounded {
        model.session(greedy()).use { session ->
            Image.decode(png()).use { session.answer(QUESTION, it) }
            val second = session.answer("And what shape is it?")
            assertTrue(second.report.nComputedTokens < second.report.nPromptTokens / 2u, "${second.report}")
        }
    }

    @Test
    fun `a saved conversation goes on, and a fork goes on beside it`() = bounded {
        val file = Files.createTempFile("owlet", ".session").toString()
        val first = model.session(greedy()).use { session ->
            Image.decode(png()).use { session.answer(QUESTION, it) }
            session.save(file)
            session.answer("And what shape is it?")
        }
        model.restore(file, greedy().copy(nConversations = 2u)).use { session ->
            assertEquals(2, session.messages.size)
            session.fork().use { fork ->
                assertEquals(first.answer, session.answer("And what shape is it?").answer)
                assertEquals(first.answer, fork.answer("And what shape is it?").answer)
                assertEquals(4, fork.messages.size)
            }
        }
        Files.delete(java.nio.file.Path.of(file))
    }

    @Test
    fun `a listener ends an answer and keeps it`() = bounded {
        model.session(greedy()).use { session ->
            var pieces = 0
            val turn = session.answer(Message("Which color?")) { ++pieces < 2 }
            assertEquals(StopReason.Caller, turn.stop)
            assertEquals(2, session.messages.size)
        }
    }

    @Test
    fun `what a listener throws is the cause of the error, and the turn leaves no trace`() = bounded {
        model.session(greedy()).use { session ->
            val thrown = IllegalStateException("the screen is gone")
            val failure = expectFailure(ErrorKind.CALLBACK) { session.answer(Message("Which color?")) { throw thrown } }
            assertSame(thrown, failure.cause)
            assertContains(failure.message!!, "the screen is gone")
            assertEquals(0, session.messages.size)
            session.answer("Which color?")
        }
    }

    @Test
    fun `listeners are called on one attached thread`() = bounded {
        model.session(greedy()).use { session ->
            val threads = mutableSetOf<Thread>()
            session.answer(Message("Which color?")) { threads.add(Thread.currentThread()) || true }
            session.answer(Message("Which shape?")) { threads.add(Thread.currentThread()) || true }
            assertEquals(1, threads.size, "JNA made a thread for each call: $threads")
        }
    }

    @Test
    fun `a form holds for the answer`() = bounded {
        val form = Constraint.jsonSchema("""{"enum": ["red", "blue"]}""")
        val answer = AnswerOptions(maxNewTokens = 64u, thinkingBudget = 8u, temperature = 0f, constraint = form)
        model.session(SessionOptions(nThreads = 1u, conversation = ConversationOptions(answer = answer))).use { session ->
            val turn = session.answer("Which color?")
            assertEquals(true, turn.meetsConstraint)
            assertTrue(turn.answer.trim() in listOf("\"red\"", "\"blue\""), turn.answer)
        }
    }

    @Test
    fun `a question that does not fit is refused with the numbers`() = bounded {
        model.session(greedy().copy(nCtx = 320u)).use { session ->
            val failure = expectFailure(ErrorKind.CONTEXT_OVERFLOW) { session.answer("word ".repeat(400)) }
            assertTrue(failure.got != null && failure.needed != null, failure.message)
            session.answer("Which color?")
        }
    }

    @Test
    fun `a closed session says so`() = bounded {
        val session = model.session(greedy())
        session.close()
        session.close()
        assertFailsWith<IllegalStateException> { session.answer("Which color?") }
        assertFailsWith<IllegalStateException> { session.messages }
    }

    companion object {
        const val QUESTION = "What color is the circle?\nReply with <thinking> and <answer>."

        fun greedy() = SessionOptions(
            nThreads = 1u,
            conversation = ConversationOptions(answer = AnswerOptions(maxNewTokens = 96u, temperature = 0f), answerRoom = 96u),
        )
    }
}
