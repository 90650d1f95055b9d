package dev.owlet

import dev.owlet.Fixtures.model
import dev.owlet.Fixtures.png
import dev.owlet.SessionTest.Companion.greedy
import java.util.concurrent.atomic.AtomicInteger
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertIs
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.async
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.joinAll
import kotlinx.coroutines.launch
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.withTimeoutOrNull
import org.junit.jupiter.api.Test

class CancellationTest {
    /** An answer that does not end by itself. */
    private fun endless() = SessionOptions(
        nCtx = 4096u,
        nThreads = 1u,
        conversation = ConversationOptions(
            answer = AnswerOptions(maxNewTokens = 3500u, constraint = Constraint.lark("""start: /(.|\n){3000}/""")),
        ),
    )

    @Test
    fun `a cancelled answer has ended in Rust and leaves no trace`() = bounded {
        model.session(endless()).use { session ->
            val begun = CompletableDeferred<Unit>()
            val job = launch {
                val failure = assertFailsWith<Throwable> {
                    session.ask("Go on.").collect { begun.complete(Unit) }
                }
                assertIs<CancellationException>(failure)
                throw failure
            }
            begun.await()
            job.cancelAndJoin()
            assertTrue(job.isCancelled)
            // The session is free: a call that had to wait for the rest of the answer would run into the limit.
            assertEquals(0, session.messages.size)
            withTimeout(20_000) { session.push(Message("And now?")) }
        }
    }

    @Test
    fun `who takes enough of a flow ends the answer`() = bounded {
        model.session(endless()).use { session ->
            assertIs<AnswerEvent.Thinking>(session.ask("Go on.").first().let { AnswerEvent.Thinking("$it") })
            assertEquals(3, session.ask("Go on.").take(3).toList().size)
            assertEquals(0, session.messages.size)
        }
    }

    @Test
    fun `a time limit is the caller's exception`() = bounded {
        model.session(endless()).use { session ->
            assertNull(withTimeoutOrNull(300) { session.answer("Go on.") })
            assertEquals(0, session.messages.size)
        }
    }

    @Test
    fun `a question that waits for its turn is cancelled without it`() = bounded {
        model.session(endless()).use { session ->
            val begun = CompletableDeferred<Unit>()
            val first = launch { session.ask("Go on.").collect { begun.complete(Unit) } }
            begun.await()
            val second = async { session.answer("And then?") }
            delay(50)
            withTimeout(5_000) { second.cancelAndJoin() }
            assertTrue(first.isActive)
            first.cancelAndJoin()
        }
    }

    @Test
    fun `a cancelled load leaves nothing, and a cancelled coroutine starts nothing`() = bounded {
        val begun = CompletableDeferred<Unit>()
        val loading = launch {
            Model.load(Fixtures.modelPath, ModelOptions(mmproj = Fixtures.projectorPath)) { begun.complete(Unit) }.close()
        }
        begun.await()
        loading.cancelAndJoin()
        assertTrue(loading.isCancelled || loading.isCompleted)
        val asked = AtomicInteger()
        val never = launch {
            coroutineContext[kotlinx.coroutines.Job]!!.cancel()
            cancellable { asked.incrementAndGet() }
        }
        never.join()
        assertEquals(0, asked.get())
    }

    @Test
    fun `the token is set while the caller's only thread is busy`() = bounded {
        val token = CompletableDeferred<dev.owlet.ffi.CancelToken>()
        val work = launch {
            assertFailsWith<CancellationException> {
                cancellable {
                    token.complete(it)
                    while (!it.isCancelled()) Thread.sleep(1)
                }
            }
        }
        token.await()
        withTimeout(5_000) { work.cancelAndJoin() }
    }

    @Test
    fun `a result that nobody receives is closed`() = bounded {
        val closed = AtomicInteger()
        val begun = CompletableDeferred<Unit>()
        val job = launch {
            cancellable<AutoCloseable> { token ->
                begun.complete(Unit)
                while (!token.isCancelled()) delay(1)
                AutoCloseable { closed.incrementAndGet() }
            }
        }
        begun.await()
        job.cancelAndJoin()
        assertEquals(1, closed.get())
    }

    @Test
    fun `fifty coroutines share a model`() = bounded {
        val answers = AtomicInteger()
        model.session(greedy()).use { session ->
            List(50) { index ->
                launch {
                    when (index % 3) {
                        0 -> Image.decode(png()).use { answers.addAndGet(it.width / 128) }
                        1 -> answers.addAndGet(session.answer("Say $index.").tokens.size.coerceAtMost(1))
                        else -> withTimeoutOrNull(5) { session.answer("Say $index.") }.also { answers.incrementAndGet() }
                    }
                }
            }.joinAll()
        }
        assertEquals(50, answers.get())
    }
}
