// Plain values of the generated bindings that need nothing around them. Fields of options that are `nil` or empty mean Owlet's
// own defaults, which the documentation of each field tells.
import OwletFFI

// Models

/// How a model is loaded: image projector, device, limits of pictures.
public typealias ModelOptions = OwletFFI.ModelOptions

/// What a loaded model is: architecture, quantization, sizes.
public typealias ModelInfo = OwletFFI.ModelInfo

/// Where a model went, and why not to a GPU.
public typealias Placement = OwletFFI.Placement

/// Where a model's layers are kept and computed.
public typealias DeviceChoice = OwletFFI.DeviceChoice

/// A device that models can be computed on.
public typealias Device = OwletFFI.DeviceInfo

/// What sort of device it is.
public typealias DeviceKind = OwletFFI.DeviceKind

// Sessions and answers

/// How a session is set up: context, threads, memory, and how its conversation goes.
public typealias SessionOptions = OwletFFI.SessionOptions

/// How a conversation goes: instructions, tools, answers, seed.
public typealias ConversationOptions = OwletFFI.ConversationOptions

/// How answers are written: length, sampling, form.
public typealias AnswerOptions = OwletFFI.AnswerOptions

/// What an answer has to look like: a JSON Schema or a grammar.
public typealias Constraint = OwletFFI.Constraint

/// Added to the logit of a token.
public typealias LogitBias = OwletFFI.LogitBias

/// How keys and values are kept.
public typealias KvType = OwletFFI.KvType

/// What becomes of a question that no longer fits the context.
public typealias Overflow = OwletFFI.Overflow

/// A question answered: what was thought and said, calls of tools, why it ended, what it cost.
public typealias Turn = OwletFFI.Turn

/// What a turn cost.
public typealias TurnReport = OwletFFI.TurnReport

/// Why an answer ended.
public typealias StopReason = OwletFFI.StopReason

/// A token with its probability.
public typealias TopToken = OwletFFI.TopToken

/// Who speaks.
public typealias Role = OwletFFI.Role

/// What one side said in a session.
public typealias ChatMessage = OwletFFI.ChatMessage

/// A call of a tool.
public typealias ToolCall = OwletFFI.ToolCall

/// What looks like a call and is none.
public typealias MalformedCall = OwletFFI.MalformedCall

/// An answer with calls taken out.
public typealias ToolCalls = OwletFFI.ToolCalls

/// One of several answers to the same prompt.
public typealias Generated = OwletFFI.Generated

/// How probable a completion is.
public typealias Scored = OwletFFI.Scored

// Pictures

/// What becomes of pixels that are not opaque: alpha is dropped, as the models' own processors do, or they are laid over white.
public typealias Alpha = OwletFFI.Alpha

/// Order of the bytes of a pixel, 8 bits each.
public typealias PixelFormat = OwletFFI.PixelFormat

/// How a stored picture must be turned to be seen upright: the eight ways of EXIF.
public typealias Orientation = OwletFFI.Orientation

/// A box in a picture, in pixels from its top left corner.
public typealias BoundingBox = OwletFFI.BoundingBox

// Adapters

/// What an adapter holds: rank, strength, size.
public typealias AdapterInfo = OwletFFI.AdapterInfo

/// How an adapter is trained.
public typealias AdaptOptions = OwletFFI.AdaptOptions

/// A published method of policy optimization.
public typealias AdaptMethod = OwletFFI.Method

/// A linear layer of a decoder block that is adapted.
public typealias AdaptTarget = OwletFFI.Target

/// Whether a job goes on from its folder.
public typealias AdaptBegin = OwletFFI.Begin

/// What a job is doing.
public typealias AdaptState = OwletFFI.JobState

/// What a job tells. (Not `Progress`, which is Foundation's.)
public typealias AdaptProgress = OwletFFI.Progress

/// What a run came to.
public typealias AdaptReport = OwletFFI.AdaptReport

/// The numbers of a training step.
public typealias StepMetrics = OwletFFI.StepMetrics

/// Means over the answers to questions of one task type.
public typealias TaskMetrics = OwletFFI.TaskMetrics

/// The parts of a response's reward: `accuracy` in 0...1, `format` 0 or 1, `structure` in 0...0.5.
public typealias RewardParts = OwletFFI.RewardParts

/// What a reward sees of the sample that was asked.
public typealias SampleView = OwletFFI.SampleView

/// How an answer is scored by Owlet's own rules.
public typealias ProblemType = OwletFFI.ProblemType

/// The ability that a sample trains.
public typealias TaskType = OwletFFI.TaskType

/// Greedy answers to held-out samples, and what they are worth.
public typealias EvaluationReport = OwletFFI.EvaluationReport

/// One of these answers.
public typealias EvaluatedAnswer = OwletFFI.EvaluatedAnswer

/// Scores of one task type.
public typealias TaskScore = OwletFFI.TaskScore

/// A mean with its 95 % interval.
public typealias Interval = OwletFFI.Interval

/// When a candidate may go live.
public typealias GateRule = OwletFFI.GateRule

/// What a gate says of a candidate.
public typealias Verdict = OwletFFI.Verdict

/// A mean before and after, and its change by pairs.
public typealias Change = OwletFFI.Change

/// The change of one task type's reward.
public typealias TaskChange = OwletFFI.TaskChange

// Memory

/// What memory of inference is asked for.
public typealias InferenceRequest = OwletFFI.InferenceRequest

/// The memory of inference.
public typealias InferencePlan = OwletFFI.InferencePlan

/// The memory of training.
public typealias AdaptationPlan = OwletFFI.AdaptationPlan

/// What takes memory, and how much.
public typealias PlanPart = OwletFFI.PlanPart

// The library

/// What sort of thing went wrong: what programs branch on. One table serves all languages; the status numbers of C and the
/// exit codes of the command line follow it.
public typealias ErrorKind = OwletFFI.ErrorKind

/// How grave a line of the log is.
public typealias LogLevel = OwletFFI.LogLevel
