import Foundation
import OwletFFI

/// An adapter that sessions of its model can use.
public final class Adapter: Sendable {
    let ffi: OwletFFI.Adapter

    init(_ ffi: OwletFFI.Adapter) { self.ffi = ffi }

    /// Reads the adapter file at `url`, a GGUF LoRA, for `model`.
    ///
    /// - Throws: `OwletError` of the kind `.notFound`, `.invalidFile`, `.unsupported`, or `.mismatch` for an adapter of another
    ///   model.
    public static func open(_ url: URL, for model: Model) async throws -> Adapter {
        try translating { Adapter(try OwletFFI.Adapter.open(model: model.ffi, path: url.filePath)) }
    }

    /// The same of the bytes of an adapter file.
    public static func open(data file: Data, for model: Model) async throws -> Adapter {
        try translating { Adapter(try OwletFFI.Adapter.fromBytes(model: model.ffi, bytes: file)) }
    }

    /// What it holds.
    public var info: AdapterInfo { ffi.info() }

    /// The largest difference that it makes to the logits after a short question, `scale` times.
    ///
    /// - Parameter threads: 0 means one per core.
    /// - Throws: `OwletError` of the kind `.noEffect` where there is none.
    public func checkEffect(scale: Float = 1, threads: Int = 0) async throws -> Float {
        try await cancellable { [ffi] token in
            try await ffi.checkEffect(scale: scale, nThreads: UInt32(clamping: threads), cancel: token)
        }
    }
}

/// An adapter in use.
public struct ActiveAdapter: Sendable {
    /// The adapter.
    public var adapter: Adapter
    /// What its updates are multiplied by.
    public var scale: Float

    public init(_ adapter: Adapter, scale: Float = 1) {
        self.adapter = adapter
        self.scale = scale
    }

    var ffi: OwletFFI.ActiveAdapter { OwletFFI.ActiveAdapter(adapter: adapter.ffi, scale: scale) }
}
