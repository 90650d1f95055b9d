//! The place of a run in its data: epoch by epoch, each in an order of its own.

use crate::data::Dataset;

/// Which sample is next.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    pub(crate) epoch: u64,
    /// Samples of the epoch that are used up.
    pub(crate) position: usize,
    order: Vec<usize>,
}

impl Cursor {
    /// At `position` of `epoch`.
    pub(crate) fn new(dataset: &Dataset, seed: u64, epoch: u64, position: usize) -> Self {
        Self { epoch, position, order: dataset.epoch_order(seed, epoch) }
    }

    /// The next sample's index and the number of this draw in the run.
    pub(crate) fn draw(&mut self, dataset: &Dataset, seed: u64) -> (usize, u64) {
        if self.position == self.order.len() {
            *self = Self::new(dataset, seed, self.epoch + 1, 0);
        }
        let draw = self.epoch * self.order.len() as u64 + self.position as u64;
        self.position += 1;
        (self.order[self.position - 1], draw)
    }
}
