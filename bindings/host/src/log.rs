//! What Owlet and llama.cpp log, handed to the app.
//!
//! Prompts, pictures and answers are never logged above [`Level::TRACE`], which is not handed on at all: [`Level::DEBUG`] is the
//! most that an app can ask for.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use owlet_runtime::{Error, ErrorKind, Result};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Takes a line that was logged: how grave it is, which part of Owlet says so, and the text. It is called from any thread, and
/// llama.cpp may log while it holds locks: a sink must not call Owlet.
pub type Sink = Box<dyn Fn(Level, &str, &str) + Send + Sync>;

/// The sink in use and the least grave level that it wants.
struct Outlet {
    level: Level,
    sink: Sink,
}

static OUTLET: RwLock<Option<Arc<Outlet>>> = RwLock::new(None);
/// Whether this process's subscriber is ours.
static IS_OURS: OnceLock<bool> = OnceLock::new();

/// Hands all that is logged from now on, up to `level`, to `sink`, in place of the one before.
///
/// # Errors
/// `InvalidInput` for [`Level::TRACE`]; `Busy` where this process has a `tracing` subscriber of its own, which hears it already.
pub fn set_sink(level: Level, sink: Sink) -> Result<()> {
    if level > Level::DEBUG {
        return Err(Error::new(ErrorKind::InvalidInput, "log level").got(level).needed("debug at most"));
    }
    if !IS_OURS.get_or_init(|| tracing::subscriber::set_global_default(Bridge).is_ok()) {
        return Err(Error::new(ErrorKind::Busy, "cannot listen to the log").got("another subscriber of `tracing`"));
    }
    replace(Some(Arc::new(Outlet { level, sink })));
    Ok(())
}

/// Hands nothing on any more. A line under way may still arrive.
pub fn clear_sink() {
    replace(None);
}

fn replace(outlet: Option<Arc<Outlet>>) {
    *OUTLET.write().unwrap_or_else(PoisonError::into_inner) = outlet;
}

/// A copy, so that no lock is held while the app is called.
fn outlet() -> Option<Arc<Outlet>> {
    OUTLET.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The subscriber: events are told, spans are not followed.
struct Bridge;

impl Subscriber for Bridge {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // The sink may change.
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && outlet().is_some_and(|outlet| *metadata.level() <= outlet.level)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let (metadata, text) = (event.metadata(), line.message + &line.fields);
        if let Some(outlet) = outlet() {
            (outlet.sink)(*metadata.level(), metadata.target(), text.trim_start());
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event as text: the message, then `name=value`.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        debug_assert!(written.is_ok(), "a string takes any text");
    }
}
