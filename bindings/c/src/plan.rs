//! What memory work will take, before it.

use std::{
    ffi::{CString, c_char},
    path::Path,
    sync::Arc,
};

use owlet_adapters::{
    options::TrainerOptions,
    plan::{MemoryPlan, PlanRequest},
};
use owlet_runtime::{InferencePlan, InferenceRequest, Result, gguf::GgufFile};

use crate::{
    adapt::owlet_adapt_options,
    boundary::{self, Out},
    device::beyond,
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, versioned},
    session::owlet_session_options,
    text::c_string,
};

/// The memory of a session or a training, by part. Never changes; may be read by several threads.
pub struct owlet_plan {
    _opaque: (),
}

/// A plan, whatever it is of.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) parts: Vec<(CString, u64)>,
    pub(crate) mapped_bytes: u64,
    pub(crate) n_ctx: usize,
    pub(crate) n_ubatch: usize,
    pub(crate) image_tokens: usize,
}

impl Handle for owlet_plan {
    type Target = Plan;
    const NAME: &'static str = "owlet_plan";
}

/// The numbers of a plan.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_plan_info {
    /// sizeof(owlet_plan_info), set by the caller.
    pub struct_size: usize,
    /// The most anonymous memory at a time, in bytes: the sum of the parts.
    pub peak_bytes: u64,
    /// Bytes of weights that are mapped and not counted: the system takes their pages back when it needs them.
    pub mapped_bytes: u64,
    /// Parts, for owlet_plan_get_part().
    pub n_parts: usize,
    /// Tokens that a session holds, after what a budget made of it; 0 of a training.
    pub n_ctx: usize,
    /// Most tokens of a prompt computed at once, likewise.
    pub n_ubatch: usize,
    /// Tokens of the largest picture that it is for.
    pub image_tokens: usize,
}

versioned!(owlet_plan_info);

/// Plans the memory of a session with `options` (NULL: the defaults) over the model at `path`, with the image projector at
/// `mmproj` (NULL: without pictures), from the headers of both files. Where `options` have a memory_budget, the plan that fits
/// it, or OWLET_STATUS_LIMIT with the least that would do. The caller frees `*out` by owlet_plan_free(). May be called from
/// any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_plan_for_session(
    path: *const c_char,
    mmproj: *const c_char,
    options: *const owlet_session_options,
    out: *mut *mut owlet_plan,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, path, mmproj, given) = unsafe {
            (
                Out::new(out)?,
                input::path(path, "path")?,
                input::optional_path(mmproj, "mmproj")?,
                input::options(options)?,
            )
        };
        out.put(for_session(&path, mmproj.as_deref(), &given)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

fn for_session(path: &Path, mmproj: Option<&Path>, given: &owlet_session_options) -> Result<Plan> {
    let (file, mmproj) = (GgufFile::open(path)?, mmproj.map(GgufFile::open).transpose()?);
    let session = given.session(n_ctx_train(&file))?;
    let images = if given.max_image_tokens == 0 { usize::MAX } else { given.max_image_tokens };
    let request = InferenceRequest { session, max_image_tokens: images, ..InferenceRequest::default() };
    let plan = match session.memory_budget {
        Some(budget) => InferencePlan::fit(&file, mmproj.as_ref(), &request, budget)?,
        None => InferencePlan::new(&file, mmproj.as_ref(), &request)?,
    };
    Ok(Plan {
        parts: plan.parts.iter().map(|&(part, bytes)| (c_string(part.name()), bytes as u64)).collect(),
        mapped_bytes: plan.mapped_bytes as u64,
        n_ctx: plan.session.n_ctx,
        n_ubatch: plan.session.n_ubatch,
        image_tokens: plan.image_tokens,
    })
}

/// The length that the model was trained with; large where the file does not tell, which the plan refuses.
fn n_ctx_train(file: &GgufFile) -> usize {
    let architecture = file.get("general.architecture").and_then(|value| value.as_str()).unwrap_or_default();
    let length = file.opt_u32(&format!("{architecture}.context_length"));
    length.ok().flatten().map_or(usize::MAX, |length| length as usize)
}

/// Plans the memory of a training with `options` (NULL: the defaults); as owlet_plan_for_session().
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_plan_for_adaptation(
    path: *const c_char,
    mmproj: *const c_char,
    options: *const owlet_adapt_options,
    out: *mut *mut owlet_plan,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, path, mmproj, given) = unsafe {
            (
                Out::new(out)?,
                input::path(path, "path")?,
                input::optional_path(mmproj, "mmproj")?,
                input::options(options)?,
            )
        };
        // SAFETY: the caller's contract.
        let options = unsafe { given.trainer() }?;
        out.put(for_adaptation(&path, mmproj.as_deref(), &options)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

fn for_adaptation(path: &Path, mmproj: Option<&Path>, options: &TrainerOptions) -> Result<Plan> {
    let file = Arc::new(GgufFile::open(path)?);
    let mmproj_bytes = mmproj.map(GgufFile::open).transpose()?.map_or(0, |file| file.n_bytes() as usize);
    // A question is seldom without words: a picture of all its tokens is the most that may come.
    let n_image = if mmproj_bytes > 0 { options.max_prompt_tokens } else { 0 };
    let request = PlanRequest { file: &file, mmproj_bytes, n_image, options };
    let plan = MemoryPlan::fit(&request, options.memory_budget.unwrap_or(usize::MAX))?;
    Ok(Plan {
        parts: plan.parts.iter().map(|&(part, bytes)| (c_string(part.name()), bytes as u64)).collect(),
        mapped_bytes: plan.mapped_bytes as u64,
        image_tokens: n_image,
        ..Plan::default()
    })
}

/// Tells the numbers of a plan in `*out`, whose `struct_size` the caller sets.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_plan_get_info(
    plan: *const owlet_plan,
    out: *mut owlet_plan_info,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let plan = handle::borrow(plan)?;
        let info = owlet_plan_info {
            peak_bytes: plan.parts.iter().map(|(_, bytes)| bytes).sum(),
            mapped_bytes: plan.mapped_bytes,
            n_parts: plan.parts.len(),
            n_ctx: plan.n_ctx,
            n_ubatch: plan.n_ubatch,
            image_tokens: plan.image_tokens,
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, info) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Gives part `index`, from 0: what a person calls it, and its bytes. The string belongs to the plan and lives as long.
/// OWLET_STATUS_INVALID_INPUT beyond the last one.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_plan_get_part(
    plan: *const owlet_plan,
    index: usize,
    name: *mut *const c_char,
    n_bytes: *mut u64,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let plan = handle::borrow(plan)?;
        let (text, bytes) = plan.parts.get(index).ok_or_else(|| beyond(index, plan.parts.len()))?;
        if name.is_null() || n_bytes.is_null() {
            return Err(boundary::null("name, n_bytes"));
        }
        // SAFETY: the caller's contract; not NULL.
        unsafe {
            name.write(text.as_ptr());
            n_bytes.write(*bytes);
        }
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees a plan and its strings. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_plan_free(plan: *mut owlet_plan) {
    boundary::free(plan);
}
