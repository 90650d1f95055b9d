//! AdamW over the adapter, and the learning rate of each step. Comes after the engine's gradients.

use std::{fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::lora::{LoraGrads, LoraWeights};

/// torch's `clip_grad_norm_` adds this to the norm it divides by.
const NORM_EPSILON: f64 = 1e-6;

/// How weights follow gradients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWOptions {
    /// Decay of the first moment, in [0, 1). Default 0.9.
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1). Default 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment; above 0. Default 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay per step and unit of learning rate; not negative. Default 0.01.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global L2 norm; above 0, infinite for no clipping. Default 1.
    pub max_grad_norm: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 }
    }
}

impl AdamWOptions {
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if a number is out of its documented range.
    pub fn validate(&self) -> Result<()> {
        let in_unit = |value: f64| (0.0..1.0).contains(&value);
        for (name, value, valid, needed) in [
            ("beta1", self.beta1, in_unit(self.beta1), "in [0, 1)"),
            ("beta2", self.beta2, in_unit(self.beta2), "in [0, 1)"),
            ("epsilon", self.epsilon, self.epsilon.is_finite() && self.epsilon > 0.0, "finite, above 0"),
            ("weight_decay", self.weight_decay, (0.0..f64::INFINITY).contains(&self.weight_decay), "not negative"),
            ("max_grad_norm", self.max_grad_norm, self.max_grad_norm > 0.0, "above 0"),
        ] {
            if !valid {
                let error = Error::new(ErrorKind::InvalidInput, "optimizer option out of range").at(name);
                return Err(error.got(value).needed(needed));
            }
        }
        Ok(())
    }
}

/// What an optimizer step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// Global L2 norm of the gradients before clipping.
    pub grad_norm: f64,
    /// False where the norm was not finite: weights and moments are then as they were.
    pub applied: bool,
}

/// AdamW with decoupled weight decay and bias correction (arXiv 1711.05101, algorithm 2), as torch computes it.
///
/// Moments are f32 in the shapes of the weights: twice the memory of the adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Numbers of the method.
    pub options: AdamWOptions,
    /// Running mean of the gradients.
    pub first: LoraGrads,
    /// Running mean of their squares.
    pub second: LoraGrads,
    /// Steps that were applied.
    pub n_updates: u64,
}

impl AdamW {
    /// No moments yet.
    pub fn new(options: AdamWOptions, weights: &LoraWeights) -> Self {
        Self { options, first: LoraGrads::zeros(weights), second: LoraGrads::zeros(weights), n_updates: 0 }
    }

    /// Clips `grads`, updates the moments and moves `weights`; `grads` and `weights` belong together.
    pub fn step(&mut self, weights: &mut LoraWeights, grads: &LoraGrads, learning_rate: f64) -> StepOutcome {
        let AdamWOptions { beta1, beta2, epsilon, weight_decay, max_grad_norm } = self.options;
        let grad_norm = grads.global_norm();
        if !grad_norm.is_finite() {
            return StepOutcome { grad_norm, applied: false };
        }
        self.n_updates += 1;
        let clip = (max_grad_norm / (grad_norm + NORM_EPSILON)).min(1.0);
        let updates = self.n_updates as f64;
        let step_size = learning_rate / (1.0 - beta1.powf(updates));
        let root_correction = (1.0 - beta2.powf(updates)).sqrt();
        let decay = 1.0 - learning_rate * weight_decay;
        let moments = self.first.tensors_mut().zip(self.second.tensors_mut());
        for ((values, gradients), (first, second)) in weights.tensors_mut().zip(grads.tensors()).zip(moments) {
            for (((value, &gradient), first), second) in values.iter_mut().zip(gradients).zip(first).zip(second) {
                let gradient = f64::from(gradient) * clip;
                let mean = beta1 * f64::from(*first) + (1.0 - beta1) * gradient;
                let square = beta2 * f64::from(*second) + (1.0 - beta2) * gradient * gradient;
                let denominator = square.sqrt() / root_correction + epsilon;
                *value = (f64::from(*value) * decay - step_size * mean / denominator) as f32;
                (*first, *second) = (mean as f32, square as f32);
            }
        }
        StepOutcome { grad_norm, applied: true }
    }
}

/// How the learning rate changes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Not at all. The default.
    #[default]
    Constant,
    /// In a straight line to 0 after the last step.
    Linear,
    /// Along half a cosine to 0 after the last step.
    Cosine,
}

impl Decay {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Constant, Self::Linear, Self::Cosine];

    /// The name in options and configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

impl fmt::Display for Decay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Decay {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|decay| decay.name() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "unknown learning rate schedule")
                .got(format!("{text:?}"))
                .needed("one of constant, linear, cosine")
        })
    }
}

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// The rate after the warm-up; finite and above 0. Default 1e-4; LoRA takes about ten times that of full training.
    pub learning_rate: f64,
    /// Steps over which the rate rises in a straight line: step 0 has `1 / warmup_steps` of it. Default 0.
    pub warmup_steps: u64,
    /// What follows. Default constant.
    pub decay: Decay,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { learning_rate: 1e-4, warmup_steps: 0, decay: Decay::Constant }
    }
}

impl Schedule {
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if the learning rate is out of its range.
    pub fn validate(&self) -> Result<()> {
        if self.learning_rate.is_finite() && self.learning_rate > 0.0 {
            return Ok(());
        }
        let error = Error::new(ErrorKind::InvalidInput, "learning rate out of range");
        Err(error.got(self.learning_rate).needed("finite, above 0"))
    }

    /// The rate of step `step` (from 0) of `n_steps`.
    pub fn rate(&self, step: u64, n_steps: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let remaining = n_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / remaining).min(1.0);
        self.learning_rate
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => 1.0 - progress,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::{LoraConfig, LoraModule};

    fn weights(values: &[f32]) -> LoraWeights {
        let module = LoraModule {
            name: "blk.0.attn_q.weight".into(),
            n_in: values.len(),
            n_out: 1,
            a: values.to_vec(),
            b: vec![0.0],
        };
        LoraWeights { config: LoraConfig { rank: 1, ..LoraConfig::default() }, modules: vec![module] }
    }

    fn grads(weights: &LoraWeights, values: &[f32]) -> LoraGrads {
        let mut grads = LoraGrads::zeros(weights);
        grads.modules[0].a.copy_from_slice(values);
        grads
    }

    /// Numbers of an independent f64 program after torch's documentation of AdamW: lr 1e-3, decay 0.01, three steps.
    #[test]
    fn three_steps_follow_the_published_algorithm() {
        let options = AdamWOptions { max_grad_norm: f64::INFINITY, ..AdamWOptions::default() };
        let mut weights = weights(&[0.5, -0.25]);
        let mut optimizer = AdamW::new(options, &weights);
        for gradient in [[0.1, -2.0], [0.3, 1.0], [-0.2, 0.5]] {
            let grads = grads(&weights, &gradient);
            assert!(optimizer.step(&mut weights, &grads, 1e-3).applied);
        }
        for (got, expected) in weights.modules[0].a.iter().zip([0.4978093446, -0.2486647968]) {
            assert!((f64::from(*got) - expected).abs() < 1e-7, "{got} instead of {expected}");
        }
    }

    #[test]
    fn gradients_are_clipped_to_the_global_norm() {
        let mut clipped = weights(&[0.0, 0.0]);
        let mut optimizer = AdamW::new(AdamWOptions::default(), &clipped);
        let large = grads(&clipped, &[30.0, 40.0]);
        assert_eq!(optimizer.step(&mut clipped, &large, 1e-3).grad_norm, 50.0);
        // 0.1 of the clipped gradient, 30 / 50.
        assert!((optimizer.first.modules[0].a[0] - 0.06).abs() < 1e-6);
    }

    #[test]
    fn gradients_that_are_no_numbers_change_nothing() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut after = weights(&[1.0, 2.0]);
            let mut optimizer = AdamW::new(AdamWOptions::default(), &after);
            let (before, fresh) = (after.clone(), optimizer.clone());
            let grads = grads(&after, &[0.1, bad]);
            assert!(!optimizer.step(&mut after, &grads, 1e-3).applied);
            assert_eq!((after, optimizer), (before, fresh));
        }
    }

    #[test]
    fn rates_rise_and_fall_as_scheduled() {
        let schedule = |decay| Schedule { learning_rate: 1.0, warmup_steps: 2, decay };
        for (decay, expected) in [
            (Decay::Constant, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
            (Decay::Linear, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
            (Decay::Cosine, [0.5, 1.0, 1.0, 0.853_553, 0.5, 0.146_447]),
        ] {
            for (step, expected) in expected.into_iter().enumerate() {
                let got = schedule(decay).rate(step as u64, 6);
                assert!((got - expected).abs() < 1e-6, "{decay:?} step {step}: {got}");
            }
        }
        assert_eq!(schedule(Decay::Linear).rate(99, 6), 0.0);
    }
}
