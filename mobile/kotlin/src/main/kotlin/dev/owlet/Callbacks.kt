package dev.owlet

import com.sun.jna.Native
import dev.owlet.ffi.ErrorInfo
import java.util.concurrent.atomic.AtomicReference
import dev.owlet.ffi.OwletException as Failure

/**
 * Calls of lambdas from Owlet's threads. What a lambda throws ends the work that called it with an error of kind `CALLBACK`,
 * and [explaining] gives the caller the exception itself as the cause.
 */
internal class Callbacks {
    private val thrown = AtomicReference<Throwable>()

    /** Calls [lambda] on a thread that Rust made. */
    fun <T> call(lambda: () -> T): T {
        // Otherwise JNA makes a Java thread for each call and ends it afterwards: twice the time, and no thread-locals.
        Native.detach(false)
        return try {
            lambda()
        } catch (failure: Throwable) {
            thrown.compareAndSet(null, failure)
            throw Failure.Failure(ErrorInfo(ErrorKind.CALLBACK, text = failure.toString(), got = failure.toString()))
        }
    }

    /** Runs [work]; where it fails because a lambda did, the error has that lambda's exception as its cause. */
    inline fun <T> explaining(work: () -> T): T =
        try {
            work()
        } catch (failure: OwletException) {
            val cause = if (failure.kind == ErrorKind.CALLBACK) thrown.getAndSet(null) else null
            throw cause?.let(failure::causedBy) ?: failure
        }
}
