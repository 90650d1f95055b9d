import OwletFFI

/// What one side says: a question, what a tool found, an earlier turn.
public struct Message: Sendable {
    /// What is said. Every `<image>` in it is replaced by the next of `images`; without any the pictures come first.
    public var text: String
    /// The pictures.
    public var images: [Picture]
    /// Who says it.
    public var role: Role

    public init(_ text: String, images: [Picture] = [], role: Role = .user) {
        self.text = text
        self.images = images
        self.role = role
    }

    var ffi: OwletFFI.Message { OwletFFI.Message(text: text, images: images.map(\.ffi), role: role) }
}

extension Message: ExpressibleByStringLiteral {
    public init(stringLiteral text: String) { self.init(text) }
}

extension [Message] {
    func prompt(toolsJSON: String?) -> Prompt { Prompt(messages: map(\.ffi), toolsJson: toolsJSON) }
}
