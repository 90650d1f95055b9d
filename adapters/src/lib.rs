//! Teaches a quantized vision-language model on the device: LoRA adapters trained by G2RPO
//! (Gaussian GRPO, arXiv 2604.08539) from rewards that can be verified.
//!
//! The modules in the order in which a training step uses them:
//!
//! 1. [`data`]: samples with their images and answers, of the types in [`task`];
//! 2. rollouts: a group of answers to each prompt;
//! 3. [`reward`] and [`length`]: a number for every answer;
//! 4. [`advantage`]: rewards of a group to advantages;
//! 5. [`loss`] and [`entropy`]: advantages and log-probabilities to dLoss/dlogprob per token;
//! 6. the engine: dLoss/dlogprob to the gradients of [`lora`];
//! 7. `optim`: gradients to new weights;
//! 8. `file`, `checkpoint` and `metrics`: what is written.
#![forbid(unsafe_code)]

pub mod advantage;
pub mod data;
pub mod entropy;
pub mod length;
pub mod lora;
pub mod loss;
mod normal;
pub mod reward;
pub mod task;
