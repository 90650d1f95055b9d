package dev.owlet

import com.sun.jna.Native
import dev.owlet.ffi.LogSink
import dev.owlet.ffi.DeviceChoice as RawChoice

/** A device that models can be computed on. */
public typealias Device = dev.owlet.ffi.DeviceInfo

/** What sort of device it is. */
public typealias DeviceKind = dev.owlet.ffi.DeviceKind

/** Where a model's layers are kept and computed: [auto], [cpu], [gpu] or [named]. */
public typealias DeviceChoice = dev.owlet.ffi.DeviceChoice

/** GPUs where there are any with room for the model, else the processor. */
public val RawChoice.Companion.auto: DeviceChoice get() = RawChoice.Auto

/** The processor. */
public val RawChoice.Companion.cpu: DeviceChoice get() = RawChoice.Cpu

/** GPUs, or an error. */
public val RawChoice.Companion.gpu: DeviceChoice get() = RawChoice.Gpu

/** The GPU of this [name], as in [Device.name], or an error. */
public fun RawChoice.Companion.named(name: String): DeviceChoice = RawChoice.Named(name)

/** How grave a line of the log is. */
public typealias LogLevel = dev.owlet.ffi.LogLevel

/** What concerns the library as a whole. */
public object Owlet {
    /** Version of the native library. */
    public val version: String get() = dev.owlet.ffi.version()

    /** The devices of this build and machine, the preferred ones first. */
    public suspend fun devices(): List<Device> = blocking { dev.owlet.ffi.devices() }

    /** Why a model would be computed by the processor alone unless told otherwise; `null` where it would not. */
    public suspend fun whyNoGpu(): String? = blocking { dev.owlet.ffi.whyNoGpu() }

    /**
     * Hands what is logged from now on, up to [level], to [sink], in place of the one before. Prompts, pictures and answers
     * are never logged.
     *
     * [sink] is called from any thread and must not call Owlet; what it throws is dropped.
     */
    public fun setLog(level: LogLevel, sink: (level: LogLevel, target: String, text: String) -> Unit) {
        val forwarder = object : LogSink {
            override fun onLog(level: LogLevel, target: String, text: String) {
                Native.detach(false)
                sink(level, target, text)
            }
        }
        translating { dev.owlet.ffi.setLogSink(level, forwarder) }
    }

    /** Logs nothing any more. */
    public fun clearLog(): Unit = dev.owlet.ffi.clearLogSink()
}
