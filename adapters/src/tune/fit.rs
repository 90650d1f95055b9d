//! How well a model fits held-out responses, before and after.

use serde::Serialize;

use crate::{
    evaluate::CONFIDENCE,
    statistics::{Interval, mean_interval, paired_difference},
};

/// How well one response is predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleFit {
    /// Id of the sample.
    pub id: String,
    /// Tokens of the response, the end included.
    pub n_tokens: usize,
    /// Mean of `-logprob` over them, in nats, at temperature 1.
    pub neg_logprob: f64,
    /// Against the teacher, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherFit>,
}

/// How close one response's predictions are to a teacher's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TeacherFit {
    /// Mean of KL(teacher || student) over the tokens, in nats.
    pub kl: f64,
    /// Share of the tokens where both find the same token most probable.
    pub agreement: f64,
}

/// Fits of all samples of a data set, in its order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Fit {
    /// One for each sample.
    pub samples: Vec<SampleFit>,
}

/// A number of the samples, as 95 % intervals (Student's t) of its mean: samples count alike, whatever their length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FitChange {
    /// Mean before.
    pub before: Interval,
    /// Mean after.
    pub after: Interval,
    /// Mean change, by pairs.
    pub change: Interval,
}

/// A number that a fit has of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// [`SampleFit::neg_logprob`].
    NegLogprob,
    /// [`TeacherFit::kl`].
    Kl,
    /// [`TeacherFit::agreement`].
    Agreement,
}

impl Fit {
    /// `quantity` of every sample; `None` where a sample does not have it.
    pub fn values(&self, quantity: Quantity) -> Option<Vec<f64>> {
        let value = |sample: &SampleFit| match quantity {
            Quantity::NegLogprob => Some(sample.neg_logprob),
            Quantity::Kl => sample.teacher.map(|fit| fit.kl),
            Quantity::Agreement => sample.teacher.map(|fit| fit.agreement),
        };
        self.samples.iter().map(value).collect()
    }

    /// From `before` to this fit of the same samples; `None` where they do not have `quantity`.
    pub fn change(&self, before: &Fit, quantity: Quantity) -> Option<FitChange> {
        let (before, after) = (before.values(quantity)?, self.values(quantity)?);
        Some(FitChange {
            before: mean_interval(&before, CONFIDENCE),
            after: mean_interval(&after, CONFIDENCE),
            change: paired_difference(&before, &after, CONFIDENCE),
        })
    }
}
