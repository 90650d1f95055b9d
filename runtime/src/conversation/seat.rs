//! Who sits where: conversations share a session, each in a sequence of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    Error, ErrorKind, Result,
    adapter::Adapter,
    cancel::CancelToken,
    queue::{Queue, Turn},
    session::Session,
};

/// A session and which of its sequences are taken.
pub(super) struct Shared {
    pub(super) session: Session,
    is_taken: Vec<bool>,
}

/// The table that conversations sit at.
struct Table {
    shared: Queue<Shared>,
    /// Sequences that were given up and are to be emptied by whoever comes next: the one who left may be in the middle of
    /// another's answer.
    left: Mutex<Vec<usize>>,
}

/// A sequence of a shared session, until it is dropped.
pub(super) struct Seat {
    table: Arc<Table>,
    seq: usize,
}

impl Seat {
    /// The first sequence of `session`.
    pub(super) fn first(session: Session) -> Self {
        let mut is_taken = vec![false; session.options().n_seq];
        is_taken[0] = true;
        let shared = Queue::new(Shared { session, is_taken });
        Self { table: Arc::new(Table { shared, left: Mutex::default() }), seq: 0 }
    }

    pub(super) fn seq(&self) -> usize {
        self.seq
    }

    /// The session under `adapters`, which it accepted before, as soon as the others are done with it.
    pub(super) fn lock(&self, adapters: &[(Arc<Adapter>, f32)]) -> Turn<'_, Shared> {
        under(adapters, self.table.clear(self.table.shared.enter_patiently()))
    }

    /// As [`Seat::lock`], for as long as nobody cancels.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn lock_until(
        &self,
        adapters: &[(Arc<Adapter>, f32)],
        cancel: &CancelToken,
    ) -> Result<Turn<'_, Shared>> {
        Ok(under(adapters, self.table.clear(self.table.shared.enter(cancel)?)))
    }

    /// A free sequence of the same session, with a copy of what this one holds.
    pub(super) fn fork(&self) -> Result<Self> {
        let mut shared = self.table.clear(self.table.shared.enter_patiently());
        let Some(seq) = shared.is_taken.iter().position(|taken| !taken) else {
            let error = Error::new(ErrorKind::Limit, "all sequences of the session are taken");
            return Err(error.got(shared.is_taken.len()).needed("a session with more sequences (n_seq)"));
        };
        shared.session.fork(self.seq, &[seq])?;
        shared.is_taken[seq] = true;
        Ok(Self { table: Arc::clone(&self.table), seq })
    }
}

impl Table {
    /// `shared` without what those who left held.
    fn clear<'a>(&self, mut shared: Turn<'a, Shared>) -> Turn<'a, Shared> {
        for seq in self.left().drain(..) {
            shared.is_taken[seq] = false;
            // The number is the session's own, so this cannot fail.
            let _ = shared.session.clear(seq);
        }
        shared
    }

    fn left(&self) -> MutexGuard<'_, Vec<usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `shared` under `adapters`.
fn under<'a>(adapters: &[(Arc<Adapter>, f32)], mut shared: Turn<'a, Shared>) -> Turn<'a, Shared> {
    let current = shared.session.adapters();
    let mut pairs = current.iter().zip(adapters);
    let is_same = current.len() == adapters.len() && pairs.all(|((a, x), (b, y))| Arc::ptr_eq(a, b) && x == y);
    if !is_same {
        shared.session.adopt_adapters(adapters);
    }
    shared
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.left().push(self.seq);
    }
}
