//! The search for engine options that fit a budget: what costs least time is given up first.

use owlet_runtime::{Error, ErrorKind, Result};

use super::{MemoryPlan, PlanRequest};
use crate::{
    engine::{EngineOptions, PrefixCacheOptions},
    lora::LoraConfig,
    options::TrainerOptions,
};

/// What a budget has beyond the planned peak, relative to it: whole steps were measured up to 3 % above their plans.
const MARGIN: f64 = 0.04;

/// A name of a change to the run, and the run with it.
type Relief = (&'static str, TrainerOptions);

impl MemoryPlan {
    /// The fastest plan of `request` whose peak and a margin of 4 % are at most `budget` bytes.
    ///
    /// In this order: everything by default; layers computed again; smaller blocks of attention
    /// and logits; inputs of layers in F16; no kept prefixes; parts of the group, down to one completion at a time. Results
    /// of layers get what is left.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] with the least that the run needs, and the changes to it that would fit; as [`MemoryPlan::new`].
    pub fn fit(request: &PlanRequest, budget: usize) -> Result<Self> {
        let default = default_options(request.options);
        let all = Self::new(request, &default)?;
        if budget_for(all.peak_bytes()) <= budget {
            return Ok(all);
        }
        let mut least = usize::MAX;
        for options in candidates(&default, request.options.group_size) {
            let bare = Self::new(request, &EngineOptions { activation_bytes: 0, ..options.clone() })?;
            let needed = budget_for(bare.peak_bytes());
            least = least.min(needed);
            if needed > budget {
                continue;
            }
            let activation_bytes = default.activation_bytes.min(((budget - needed) as f64 / (1.0 + MARGIN)) as usize);
            let kept = Self::new(request, &EngineOptions { activation_bytes, ..options })?;
            return Ok(if budget_for(kept.peak_bytes()) <= budget { kept } else { bare });
        }
        Err(refusal(request, budget, least))
    }
}

/// Options of the engine from fast to small.
fn candidates(default: &EngineOptions, group_size: usize) -> Vec<EngineOptions> {
    let recomputed = EngineOptions { activation_bytes: 0, ..default.clone() };
    let blocks = |shift: u32| EngineOptions {
        attention_bytes: default.attention_bytes >> shift,
        logit_bytes: default.logit_bytes >> shift,
        ..recomputed.clone()
    };
    let half = |options: EngineOptions| EngineOptions { half_checkpoints: true, ..options };
    let forgetful = |options: EngineOptions| {
        let prefix_cache = PrefixCacheOptions { memory_bytes: 0, sampler_bytes: 0, ..options.prefix_cache.clone() };
        EngineOptions { prefix_cache, ..half(options) }
    };
    let mut candidates = vec![default.clone(), recomputed.clone(), blocks(2), half(blocks(2)), forgetful(blocks(2))];
    let mut max_completions = group_size;
    while max_completions > 1 {
        max_completions = max_completions.div_ceil(2);
        candidates.push(EngineOptions { max_completions, ..forgetful(blocks(2)) });
    }
    candidates.push(EngineOptions { max_completions, ..forgetful(blocks(4)) });
    candidates
}

/// The least budget of a plan with this peak, in bytes.
fn budget_for(peak: usize) -> usize {
    (peak as f64 * (1.0 + MARGIN)).ceil() as usize
}

fn default_options(run: &TrainerOptions) -> EngineOptions {
    let n_threads = TrainerOptions::resolved_threads(run.n_threads);
    EngineOptions { n_threads, prefix_cache: run.prefix_cache.clone(), ..EngineOptions::default() }
}

/// What the run needs at least, margin included, and what of it could be less.
fn refusal(request: &PlanRequest, budget: usize, least: usize) -> Error {
    let run = request.options;
    let reliefs: [Relief; 4] = [
        ("--sequences 1", TrainerOptions { n_sequences: 1, n_sessions: 1, ..run.clone() }),
        ("half of --max-tokens", TrainerOptions { max_new_tokens: run.max_new_tokens.div_ceil(2), ..run.clone() }),
        (
            "half of --max-prompt-tokens",
            TrainerOptions { max_prompt_tokens: run.max_prompt_tokens.div_ceil(2), ..run.clone() },
        ),
        ("a quarter of --rank", TrainerOptions { lora: rank(run, run.lora.rank.div_ceil(4)), ..run.clone() }),
    ];
    let default = default_options(run);
    let smallest = candidates(&default, run.group_size).pop().unwrap_or(default);
    let peak = |run: &TrainerOptions| {
        let request = PlanRequest { options: run, n_image: request.n_image.min(run.max_prompt_tokens), ..*request };
        MemoryPlan::new(&request, &smallest).map_or(usize::MAX, |plan| budget_for(plan.peak_bytes()))
    };
    let fitting: Vec<_> = reliefs.iter().filter(|(_, run)| peak(run) <= budget).map(|(name, _)| *name).collect();
    let together = TrainerOptions {
        n_sequences: 1,
        n_sessions: 1,
        max_new_tokens: run.max_new_tokens.div_ceil(2),
        max_prompt_tokens: run.max_prompt_tokens.div_ceil(2),
        lora: rank(run, run.lora.rank.div_ceil(4)),
        ..run.clone()
    };
    let advice = match fitting.as_slice() {
        [] if peak(&together) <= budget => {
            "; --sequences 1, half the tokens and a quarter of --rank together fit".to_owned()
        }
        [] => "; the model is too large for this budget".to_owned(),
        some => format!("; each of these would fit: {}", some.join(", ")),
    };
    Error::new(ErrorKind::Limit, "the run does not fit the memory budget")
        .got(format!("{} MiB", budget >> 20))
        .needed(format!("at least {} MiB{advice}", least.div_ceil(1 << 20)))
}

fn rank(run: &TrainerOptions, rank: usize) -> LoraConfig {
    LoraConfig { rank, ..run.lora.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_get_smaller_and_end_with_one_completion() {
        let list = candidates(&EngineOptions::default(), 8);
        assert_eq!(list.first(), Some(&EngineOptions::default()));
        assert_eq!(list.iter().map(|options| options.max_completions).min(), Some(1));
        for pair in list.windows(2) {
            let size = |options: &EngineOptions| {
                let blocks = options.attention_bytes + options.logit_bytes;
                (
                    options.activation_bytes,
                    blocks,
                    !options.half_checkpoints,
                    options.prefix_cache.memory_bytes,
                    options.max_completions,
                )
            };
            let (larger, smaller) = (size(&pair[0]), size(&pair[1]));
            assert!(smaller < larger, "{smaller:?} after {larger:?}");
        }
    }
}
