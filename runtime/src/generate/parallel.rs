//! The same work on several sessions side by side.
//!
//! A small model has small operations, and the threads of one session wait for each other after every one of them. Two
//! sessions of one thread each wait for nobody.

use std::{ops::ControlFlow, thread};

use super::{GenerateRequest, Generated, TokenEvent, generate};
use crate::{CancelToken, Error, ErrorKind, Result, SamplerOptions, Session};

/// As [`generate()`], with the requests dealt out to `sessions` in turn, each on a thread of its own.
///
/// The deal depends on the order of the requests alone, so the same sessions give the same bits again. `on_token` is
/// called from all threads; its events carry the index in `requests`.
///
/// # Errors
/// As [`generate()`], of the first session that fails, after all have ended; `InvalidInput` without a session.
pub fn generate_parallel(
    sessions: &mut [Session],
    requests: &[GenerateRequest],
    sampler: &SamplerOptions,
    max_new_tokens: usize,
    cancel: &CancelToken,
    on_token: &(dyn Fn(TokenEvent) -> ControlFlow<()> + Sync),
) -> Result<Vec<Vec<Generated>>> {
    let n_sessions = sessions.len();
    if n_sessions == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "no session to generate with").needed("at least one"));
    }
    let run = |(index, session): (usize, &mut Session)| {
        let share: Vec<_> = requests.iter().skip(index).step_by(n_sessions).copied().collect();
        let mut on_token =
            |event: TokenEvent| on_token(TokenEvent { request: index + event.request * n_sessions, ..event });
        generate(session, &share, sampler, max_new_tokens, cancel, &mut on_token)
    };
    let shares: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = sessions.iter_mut().enumerate().map(|part| scope.spawn(move || run(part))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut answers = vec![Vec::new(); requests.len()];
    for (index, share) in shares.into_iter().enumerate() {
        let share = share.map_err(|_| Error::new(ErrorKind::Internal, "a generating thread panicked"))??;
        for (slot, answer) in answers.iter_mut().skip(index).step_by(n_sessions).zip(share) {
            *slot = answer;
        }
    }
    Ok(answers)
}
