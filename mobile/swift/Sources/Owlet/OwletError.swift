import Foundation
import OwletFFI

/// What Owlet could not do.
///
/// Where the task that waits was cancelled, calls throw `CancellationError` instead; the kind `.cancelled` tells of a time
/// limit that ran out.
public struct OwletError: Error, Sendable {
    /// What sort of thing went wrong.
    public let kind: ErrorKind
    /// The whole sentence, for people: what, where, what was found, what was needed.
    public let message: String
    /// Where: a path, a path and a line, a tensor, a key.
    public let place: String?
    /// What was found.
    public let got: String?
    /// What would have been accepted.
    public let needed: String?
    /// The messages of the errors underneath, the nearest first.
    public let causes: [String]
    /// What a function of the app threw, where the kind is `.callback`.
    public let underlying: (any Error)?

    /// An error of the Swift layer itself.
    init(kind: ErrorKind, message: String) {
        self.kind = kind
        self.message = message
        (place, got, needed) = (nil, nil, nil)
        causes = []
        underlying = nil
    }

    /// For those who wait for the result of a stream that has given it away.
    static var takenAlready: OwletError {
        OwletError(kind: .invalidInput, message: "cannot wait for the result: the stream was iterated already")
    }

    init(_ error: OwletFFI.OwletError, _ appErrors: AppErrors?) {
        switch error {
        case .Failure(let info):
            kind = info.kind
            message = info.text
            place = info.place
            got = info.got
            needed = info.needed
            causes = info.causes
            underlying = info.kind == .callback ? appErrors?.take() : nil
        }
    }
}

extension OwletError: LocalizedError, CustomStringConvertible {
    public var errorDescription: String? { message }
    public var description: String { message }
}

/// The first error that the app's own functions threw during a piece of work. They run on threads of Rust, which carries the
/// text of an error but not the error.
final class AppErrors: @unchecked Sendable {
    private let lock = NSLock()
    private var thrown: (any Error)?

    /// Gives away the error that was thrown first.
    func take() -> (any Error)? {
        lock.withLock {
            defer { thrown = nil }
            return thrown
        }
    }

    /// Calls a function of the app for Rust.
    func watching<Result>(_ function: () throws -> Result) throws -> Result {
        do {
            return try function()
        } catch {
            lock.withLock { thrown = thrown ?? error }
            let text = "a function of the app failed"
            throw OwletFFI.OwletError.Failure(info: ErrorInfo(kind: .callback, text: text, got: "\(error)"))
        }
    }
}
