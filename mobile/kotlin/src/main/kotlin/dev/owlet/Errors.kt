package dev.owlet

import dev.owlet.ffi.ErrorInfo
import dev.owlet.ffi.OwletException as Failure

/**
 * What sort of thing went wrong: what programs branch on. One table serves all languages; C's status numbers and the exit
 * codes of the command line follow it.
 */
public typealias ErrorKind = dev.owlet.ffi.ErrorKind

/**
 * What Owlet could not do. [message] is the whole sentence for people: what, where, what was found, what was needed.
 *
 * A cancelled coroutine does not see this but its own [kotlinx.coroutines.CancellationException]; the kind `CANCELLED`
 * tells of a time limit that ran out.
 */
public class OwletException internal constructor(
    private val info: ErrorInfo,
    cause: Throwable? = null,
) : Exception(info.text, cause) {
    /** What sort of thing went wrong. */
    public val kind: ErrorKind = info.kind

    /** Where: a path, a path and a line, a tensor, a key. */
    public val place: String? = info.place

    /** What was found. */
    public val got: String? = info.got

    /** What would have been accepted. */
    public val needed: String? = info.needed

    /** The errors underneath, the nearest first. What a lambda of the app threw is [cause]. */
    public val causes: List<String> = info.causes

    internal fun causedBy(cause: Throwable): OwletException = OwletException(info, cause)
}

internal fun Failure.translated(): OwletException =
    when (this) {
        is Failure.Failure -> OwletException(info)
    }
