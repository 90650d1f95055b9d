//! Which sample is next: epochs in an order of their own, the largest prompt of all at the very beginning.

use crate::data::Dataset;

/// A place in the order of the samples.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    pub(crate) epoch: u64,
    /// Samples of the epoch's order that are used up.
    pub(crate) position: usize,
    order: Vec<usize>,
}

/// What the order depends on.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) seed: u64,
    /// The sample that comes first in the run: what takes the most memory should fail at once, and not after hours.
    pub(crate) first: Option<usize>,
}

impl Cursor {
    pub(crate) fn new(by: Order<'_>, epoch: u64, position: usize) -> Self {
        let mut order = by.dataset.epoch_order(by.seed, epoch);
        if let (0, Some(first)) = (epoch, by.first)
            && let Some(place) = order.iter().position(|&sample| sample == first)
        {
            order[..=place].rotate_right(1);
        }
        Self { epoch, position, order }
    }

    /// The next sample's index and the number of this draw in the run.
    pub(crate) fn draw(&mut self, by: Order<'_>) -> (usize, u64) {
        if self.position == self.order.len() {
            *self = Self::new(by, self.epoch + 1, 0);
        }
        let draw = self.epoch * self.order.len() as u64 + self.position as u64;
        self.position += 1;
        (self.order[self.position - 1], draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::Sample,
        task::{ProblemType, TaskType},
    };

    #[test]
    fn the_largest_comes_first_in_the_first_epoch_and_every_sample_once_in_each() {
        let sample = |index: usize| Sample {
            id: index.to_string(),
            place: String::new(),
            problem: String::new(),
            images: Vec::new(),
            answer: "1".to_owned(),
            problem_type: ProblemType::Numerical,
            task_type: TaskType::Ocr,
            options: Vec::new(),
            response: None,
        };
        let dataset = Dataset::from_samples((0..8).map(sample).collect()).expect("no pictures");
        for first in 0..8 {
            let by = Order { dataset: &dataset, seed: 1, first: Some(first) };
            let mut cursor = Cursor::new(by, 0, 0);
            let draws: Vec<_> = (0..16).map(|_| cursor.draw(by)).collect();
            assert_eq!(draws[0], (first, 0));
            assert!(draws.iter().map(|(_, draw)| *draw).eq(0..16));
            for epoch in draws.chunks(8) {
                let mut samples: Vec<_> = epoch.iter().map(|(sample, _)| *sample).collect();
                samples.sort_unstable();
                assert!(samples.into_iter().eq(0..8));
            }
            let (_, second) = draws.split_at(8);
            assert!(second.iter().map(|(sample, _)| *sample).eq(dataset.epoch_order(1, 1)));
        }
    }
}
