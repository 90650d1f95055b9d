//! Ctrl-C and SIGTERM: once to stop at the next safe place, twice to stop at once.

use owlet::{CancelToken, Error, ErrorKind};

use super::failure::Result;

/// A token that the first signal cancels; a second signal ends the process.
pub(crate) fn cancel_on_signal() -> Result<CancelToken> {
    let token = CancelToken::new();
    let signalled = token.clone();
    ctrlc::set_handler(move || {
        if signalled.is_cancelled() {
            std::process::exit(i32::from(ErrorKind::Cancelled.exit_code()));
        }
        signalled.cancel();
    })
    .map_err(|source| Error::new(ErrorKind::Internal, "cannot listen for Ctrl-C").source(source))?;
    Ok(token)
}
