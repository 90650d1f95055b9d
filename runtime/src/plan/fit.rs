//! The search for a session that fits a budget: what costs least is given up first.

use super::{CELL_BLOCK, InferencePlan, InferenceRequest, Shape};
use crate::{
    Error, ErrorKind, Result,
    model::hyper::Hyperparameters,
    session::{KvType, SessionOptions},
};

/// Fewest tokens of a picture that a budget may bring about.
const LEAST_IMAGE_TOKENS: usize = 256;

/// See [`InferencePlan::fit`].
pub(super) fn fit(shape: &Shape, request: &InferenceRequest, budget: usize) -> Result<InferencePlan> {
    let mut plan = shape.plan(request)?;
    let mut left = request.clone();
    for step in [less_batch, less_batch, less_precision, less_precision] {
        if plan.peak_bytes() <= budget {
            return Ok(plan);
        }
        step(&mut left.session, &shape.hyper);
        plan = shape.plan(&left)?;
    }
    while plan.peak_bytes() > budget && plan.image_tokens > LEAST_IMAGE_TOKENS {
        left.max_image_tokens = (plan.image_tokens / 2).max(LEAST_IMAGE_TOKENS);
        plan = shape.plan(&left)?;
    }
    let least_ctx = request.least_ctx.clamp(1, request.session.n_ctx);
    while plan.peak_bytes() > budget && left.session.n_ctx > least_ctx {
        // What lies in the last block of cells takes no memory of its own.
        left.session.n_ctx = ((left.session.n_ctx - 1) / CELL_BLOCK * CELL_BLOCK).max(least_ctx);
        plan = shape.plan(&left)?;
    }
    if plan.peak_bytes() <= budget { Ok(plan) } else { Err(refusal(shape, &left, &plan, budget)) }
}

fn less_batch(session: &mut SessionOptions, _: &Hyperparameters) {
    if session.n_ubatch >= 256 {
        session.n_ubatch /= 2;
        session.n_logits = session.n_logits.min(session.n_ubatch);
    }
}

fn less_precision(session: &mut SessionOptions, hyper: &Hyperparameters) {
    let less = match session.kv_type {
        KvType::F32 => KvType::F16,
        KvType::F16 | KvType::Q8_0 => KvType::Q8_0,
    };
    let packed = SessionOptions { kv_type: less, ..*session };
    if packed.check_for(hyper).is_ok() {
        *session = packed;
    }
}

/// What `least`, the smallest plan, needs, and what else could be given up.
fn refusal(shape: &Shape, left: &InferenceRequest, least: &InferencePlan, budget: usize) -> Error {
    let one_sequence = SessionOptions { n_seq: 1, ..left.session };
    let no_tower = Shape { tower: None, hyper: shape.hyper.clone(), ..*shape };
    let reliefs = [
        ("one sequence", shape.plan(&InferenceRequest { session: one_sequence, ..left.clone() })),
        ("no pictures", no_tower.plan(left)),
        ("no kept prompts", shape.plan(&InferenceRequest { prompt_cache_bytes: 0, ..left.clone() })),
        ("no repacked weights", shape.plan(&InferenceRequest { repack: false, ..left.clone() })),
    ];
    let fits = |plan: &Result<InferencePlan>| plan.as_ref().is_ok_and(|plan| plan.peak_bytes() <= budget);
    let fitting: Vec<_> = reliefs.iter().filter(|(_, plan)| fits(plan)).map(|&(name, _)| name).collect();
    let advice = if fitting.is_empty() {
        "the model is too large for this budget".to_owned()
    } else {
        format!("each of these would fit: {}", fitting.join(", "))
    };
    let mut parts = least.parts.clone();
    parts.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    let mebibytes = |bytes: usize| bytes.div_ceil(1 << 20);
    let largest = parts.iter().take(3).map(|(part, bytes)| format!("{} {} MiB", part.name(), mebibytes(*bytes)));
    let largest = largest.collect::<Vec<_>>().join(", ");
    Error::new(ErrorKind::Limit, "inference does not fit the memory budget")
        .got(format!("{} MiB", budget >> 20))
        .needed(format!("at least {} MiB ({largest}); {advice}", mebibytes(least.peak_bytes())))
}
