import Foundation
import OwletFFI

/// Samples to train on or to be held out, checked as they are taken.
public final class Dataset: Sendable {
    let ffi: OwletFFI.Dataset

    private init(_ ffi: OwletFFI.Dataset) { self.ffi = ffi }

    /// Reads a `.jsonl` file (one object a line) or a `.json` file (an array), with pictures beside it.
    ///
    /// - Throws: `OwletError` of the kind `.notFound`, `.invalidFile` or `.unsupported` for a bad row, with its line.
    public static func open(_ url: URL) async throws -> Dataset {
        try translating { Dataset(try OwletFFI.Dataset.open(path: url.filePath)) }
    }

    /// A data set of samples that the app makes.
    ///
    /// - Throws: `OwletError` of the kind `.invalidFile` for a sample whose marks do not fit its pictures, whose pictures are none or
    ///   whose truth cannot be scored.
    public convenience init(_ samples: [Sample]) throws {
        self.init(try translating { try OwletFFI.Dataset.fromSamples(samples: samples.map(\.ffi)) })
    }

    /// Number of samples.
    public var count: Int { Int(ffi.nSamples()) }
}

/// One problem with its truth.
public struct Sample: Sendable {
    /// Its name in reports.
    public var id: String
    /// The question, together with the options with one `<image>` for every picture.
    public var problem: String
    /// The truth.
    public var answer: String
    /// How it is scored.
    public var problemType: ProblemType
    /// Which ability it trains. Reports are by it.
    public var taskType: TaskType
    /// Its pictures, in the order of the marks.
    public var images: [SampleImage]
    /// Options of a multiple choice, such as `A. cat`.
    public var options: [String]

    public init(
        id: String,
        problem: String,
        answer: String,
        problemType: ProblemType,
        taskType: TaskType = .generalVqa,
        images: [SampleImage] = [],
        options: [String] = []
    ) {
        self.id = id
        self.problem = problem
        self.answer = answer
        self.problemType = problemType
        self.taskType = taskType
        self.images = images
        self.options = options
    }

    var ffi: OwletFFI.Sample {
        OwletFFI.Sample(
            id: id, problem: problem, answer: answer, problemType: problemType, taskType: taskType, images: images.map(\.ffi),
            options: options)
    }
}

/// A picture of a sample.
public enum SampleImage: Sendable {
    /// A file, which is read whenever its sample is asked.
    case file(URL)
    /// The bytes of a PNG, JPEG, WebP, GIF or BMP file.
    case encoded(Data)
    /// A decoded picture. Large ones are better encoded: pixels take memory for the whole run.
    case decoded(Picture)

    var ffi: OwletFFI.SampleImage {
        switch self {
        case .file(let url): .file(path: url.filePath)
        case .encoded(let bytes): .encoded(bytes: bytes)
        case .decoded(let picture): .pixels(image: picture.ffi)
        }
    }
}
