//! The memory of asking: what `owlet plan --for run` prints, and what `--memory-budget` of `owlet run` and `owlet chat` goes by.

use std::{fs, path::Path};

use owlet::{
    Error, ErrorKind, InferencePart, InferencePlan, InferenceRequest, KvType, Model, SessionOptions, gguf::GgufFile,
};
use serde::Serialize;

use super::{
    failure::Result,
    output::{Output, memory_table},
};

/// What `--json` prints; all sizes in bytes.
#[derive(Debug, Serialize)]
struct Report {
    peak: usize,
    mapped: usize,
    parts: Vec<Entry>,
    context: usize,
    batch: usize,
    kv_type: &'static str,
    /// Of the largest picture.
    image_tokens: usize,
    max_pixels: u64,
}

#[derive(Debug, Serialize)]
struct Entry {
    part: &'static str,
    bytes: usize,
}

/// Plans a session over the files and prints it.
pub(crate) fn print_plan(
    model: &Path,
    mmproj: Option<&Path>,
    request: &InferenceRequest,
    budget: Option<usize>,
    json: bool,
    output: Output,
) -> Result<()> {
    let file = GgufFile::open(model)?;
    let mmproj = mmproj.map(GgufFile::open).transpose()?;
    let plan = match budget {
        Some(budget) => InferencePlan::fit(&file, mmproj.as_ref(), request, budget)?,
        None => InferencePlan::new(&file, mmproj.as_ref(), request)?,
    };
    let kv_type = kv_name(plan.session.kv_type);
    if json {
        let entry = |&(part, bytes): &(InferencePart, usize)| Entry { part: part.name(), bytes };
        return output.json(&Report {
            peak: plan.peak_bytes(),
            mapped: plan.mapped_bytes,
            parts: plan.parts.iter().map(entry).collect(),
            context: plan.session.n_ctx,
            batch: plan.session.n_ubatch,
            kv_type,
            image_tokens: plan.image_tokens,
            max_pixels: plan.max_pixels,
        });
    }
    let parts = plan.parts.iter().map(|&(part, bytes)| (part.name(), bytes));
    output.data(memory_table(parts, plan.peak_bytes(), plan.mapped_bytes))?;
    output.say(format_args!(
        "{} sequences of {} tokens, keys and values in {kv_type}, prompts by {}, pictures of at most {} tokens",
        plan.session.n_seq, plan.session.n_ctx, plan.session.n_ubatch, plan.image_tokens,
    ));
    Ok(())
}

/// What a run over `model` may take of `budget`: of `n_ctx` tokens, `least_ctx` of which it cannot do without, with pictures
/// of `sizes`, `adapters` and a draft model that takes `guessing` bytes.
pub(crate) fn fit_run<'a>(
    model: &Model,
    session: SessionOptions,
    least_ctx: usize,
    sizes: &[(u32, u32)],
    adapters: impl Iterator<Item = &'a Path>,
    guessing: usize,
    budget: usize,
) -> Result<InferencePlan> {
    let n_tokens = |&(width, height): &(u32, u32)| match model.image_budget() {
        Some(budget) => budget.tokens_for(width, height),
        None => Ok(0),
    };
    let n_tokens = sizes.iter().map(n_tokens).collect::<owlet::Result<Vec<_>>>()?;
    let request = InferenceRequest {
        session,
        max_image_tokens: n_tokens.into_iter().max().unwrap_or(0),
        n_pictures: sizes.len(),
        least_ctx,
        ..InferenceRequest::default()
    };
    fit(model, &request, adapters, guessing, budget)
}

/// What `request` over `model` may take of `budget`, with `adapters` and a draft model that takes `guessing` bytes.
pub(crate) fn fit<'a>(
    model: &Model,
    request: &InferenceRequest,
    adapters: impl Iterator<Item = &'a Path>,
    guessing: usize,
    budget: usize,
) -> Result<InferencePlan> {
    let bytes = |path: &Path| fs::metadata(path).map_err(|source| Error::io("cannot read file", path, source));
    let adapter_bytes = adapters.map(|path| Ok(bytes(path)?.len() as usize)).sum::<owlet::Result<usize>>()?;
    let left = budget.checked_sub(guessing).ok_or_else(|| {
        let mebibytes = |bytes: usize| format!("{} MiB", bytes >> 20);
        let error = Error::new(ErrorKind::Limit, "the draft model does not fit the memory budget");
        error.got(mebibytes(budget)).needed(format!("{} for it alone", mebibytes(guessing)))
    })?;
    Ok(InferencePlan::fit_model(model, &InferenceRequest { adapter_bytes, ..request.clone() }, left)?)
}

fn kv_name(kv_type: KvType) -> &'static str {
    match kv_type {
        KvType::F32 => "F32",
        KvType::F16 => "F16",
        KvType::Q8_0 => "Q8_0",
    }
}
