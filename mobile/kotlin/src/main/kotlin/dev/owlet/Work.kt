package dev.owlet

import dev.owlet.ffi.CancelToken
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import dev.owlet.ffi.OwletException as Failure

/**
 * Runs [work] so that cancelling the calling coroutine cancels it in Rust, and returns only when Rust has ended.
 *
 * The generated suspend functions return at once when their coroutine is cancelled, while Rust still ends its unit of work.
 * A caller that goes on then may find the session busy or free a picture that is being read. So they run uncancellable here,
 * and the token tells Rust; `docs/cancellation.md` says how soon each phase ends. The caller sees the [CancellationException]
 * [kotlinx.coroutines.CancellationException] of its own job, never an [OwletException] that only says so.
 *
 * A result that nobody will receive, because the coroutine was cancelled after the work was done, is closed.
 */
internal suspend fun <T> cancellable(work: suspend (CancelToken) -> T): T {
    currentCoroutineContext().ensureActive()
    var unclaimed: AutoCloseable? = null
    try {
        val result = CancelToken().use { token ->
            coroutineScope {
                // Unconfined: the token is set by the thread that cancels, even while the caller's own thread is busy.
                val watcher = launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
                    try {
                        awaitCancellation()
                    } finally {
                        token.cancel()
                    }
                }
                try {
                    // Noted within: the way out of withContext may already end in the cancellation.
                    withContext(NonCancellable) { work(token).also { unclaimed = it as? AutoCloseable } }
                } catch (failure: Failure) {
                    ensureActive()
                    throw failure.translated()
                } finally {
                    watcher.cancel()
                }
            }
        }
        currentCoroutineContext().ensureActive()
        unclaimed = null
        return result
    } finally {
        unclaimed?.close()
    }
}

/** Runs a call that blocks for long (decoding a photo, opening a file) away from the caller's thread, its errors translated. */
internal suspend fun <T> blocking(call: () -> T): T = withContext(Dispatchers.IO) { translating(call) }

/** Runs a short call, its errors translated. */
internal inline fun <T> translating(call: () -> T): T =
    try {
        call()
    } catch (failure: Failure) {
        throw failure.translated()
    }
