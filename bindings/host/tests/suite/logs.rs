//! What is logged, as the app gets it.

use std::sync::{Arc, Mutex};

use owlet_host::log::{clear_sink, set_sink};
use owlet_runtime::ErrorKind;
use tracing::Level;

#[test]
fn lines_up_to_the_level_reach_the_sink_with_their_fields() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let listen = |level| {
        let into = Arc::clone(&lines);
        set_sink(
            level,
            Box::new(move |level, target, text| {
                // Other tests of this process log as well.
                if target == "test" {
                    into.lock().expect("no panic").push(format!("{level} {text}"));
                }
            }),
        )
    };
    let tell = || {
        tracing::warn!(target: "test", path = %"a/b", n = 3, "odd");
        tracing::debug!(target: "test", "chatter");
    };
    tell();
    listen(Level::INFO).expect("the first sink");
    tell();
    listen(Level::DEBUG).expect("the next one");
    tell();
    clear_sink();
    tell();
    assert_eq!(*lines.lock().expect("no panic"), ["WARN odd path=a/b n=3", "WARN odd path=a/b n=3", "DEBUG chatter"]);
    assert_eq!(listen(Level::TRACE).expect_err("prompts may be in it").kind(), ErrorKind::InvalidInput);
}
