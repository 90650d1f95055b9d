//! What Owlet and llama.cpp log, for the app.

use std::sync::Arc;

use crate::error::Result;

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What happens.
    Info,
    /// What happens within, llama.cpp's own messages included.
    Debug,
}

/// Takes what is logged. Prompts, pictures and answers never are.
#[uniffi::export(with_foreign)]
pub trait LogSink: Send + Sync {
    /// A line of the part `target` of Owlet. It is called from any thread and must not call Owlet. What it throws is dropped.
    fn on_log(&self, level: LogLevel, target: String, text: String) -> Result<()>;
}

/// Hands all that is logged from now on, up to `level`, to `sink`, in place of the one before.
///
/// Throws `Busy` where this process has another listener, such as a Rust program with its own.
#[uniffi::export]
pub fn set_log_sink(level: LogLevel, sink: Arc<dyn LogSink>) -> Result<()> {
    let most = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    };
    let tell = move |level: tracing::Level, target: &str, text: &str| {
        let level = match level {
            tracing::Level::ERROR => LogLevel::Error,
            tracing::Level::WARN => LogLevel::Warn,
            tracing::Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        // There is no call that could fail for it.
        let _ = sink.on_log(level, target.to_owned(), text.to_owned());
    };
    Ok(owlet_host::log::set_sink(most, Box::new(tell))?)
}

/// Hands nothing on any more.
#[uniffi::export]
pub fn clear_log_sink() {
    owlet_host::log::clear_sink();
}
