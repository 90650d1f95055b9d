//! Teaches a quantized vision-language model on the device: LoRA adapters trained by G2RPO
//! (Gaussian GRPO, arXiv 2604.08539) from rewards that can be verified.
//!
//! The modules in the order in which a training step uses them:
//!
//! 1. [`data`]: samples with their images and answers, of the types in [`task`];
//! 2. [`rollout`]: a group of answers to each prompt;
//! 3. [`reward`] and [`length`]: a number for every answer;
//! 4. [`advantage`]: rewards of a group to advantages;
//! 5. [`loss`] and [`entropy`]: advantages and log-probabilities to dLoss/dlogprob per token;
//! 6. [`engine`]: dLoss/dlogprob to the gradients of [`lora`];
//! 7. [`optim`]: gradients to new weights;
//! 8. [`mod@file`], [`checkpoint`] and [`metrics`]: what is written; [`statistics`]: how sure a result is.
//!
//! [`trainer`] is the loop over them, in slices, with the settings in [`options`] and those of published methods in [`method`];
//! [`run`] takes it from the first step to the last, with checkpoints and metrics in a folder. [`plan`] tells the memory of
//! all this beforehand. [`mod@evaluate`] asks held-out samples, and [`gate`] lets an adapter go
//! live where their answers became better; [`vote`] makes one answer of several.
//! [`tune`] is the shorter loop of supervised training: data to tokens to 5.
#![forbid(unsafe_code)]

pub mod advantage;
pub mod checkpoint;
mod cursor;
pub mod data;
pub mod engine;
pub mod entropy;
pub mod evaluate;
pub mod file;
pub mod gate;
pub mod length;
mod lesson;
mod lock;
pub mod lora;
pub mod loss;
mod measure;
pub mod method;
pub mod metrics;
mod normal;
pub mod optim;
pub mod options;
mod pace;
pub mod picture;
pub mod plan;
pub mod reward;
pub mod rollout;
mod round;
pub mod run;
pub mod statistics;
mod step;
mod summary;
pub mod task;
pub mod trainer;
pub mod tune;
mod update;
pub mod vote;
