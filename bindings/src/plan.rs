//! The memory of inference and of training, told from the headers of files before any work.

use std::{path::Path, sync::Arc};

use owlet_adapters::{options::TrainerOptions, plan as training};
use owlet_host::background;
use owlet_runtime::{self as runtime, CancelToken, gguf::GgufFile};

use crate::{
    error::Result,
    session::{KvType, SessionOptions, bytes},
    training::AdaptOptions,
};

/// What takes memory.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct PlanPart {
    /// What a person calls it.
    pub name: String,
    /// Bytes of anonymous memory.
    pub n_bytes: u64,
}

/// What memory is asked for. Nothing given means the default.
#[derive(Clone, Debug, Default, uniffi::Record)]
pub struct InferenceRequest {
    /// The session. With a memory budget, the plan is the nearest one that fits it.
    #[uniffi(default)]
    pub session: SessionOptions,
    /// Tokens of the largest picture; default: as many as projector and context allow. 0 when none is shown.
    #[uniffi(default)]
    pub max_image_tokens: Option<u32>,
    /// Pictures that are kept at the same time; default 1.
    #[uniffi(default)]
    pub n_pictures: Option<u32>,
    /// Bytes of adapters in use, all together.
    #[uniffi(default)]
    pub adapter_bytes: u64,
    /// `ModelOptions.repack`.
    #[uniffi(default)]
    pub repack: bool,
    /// The shortest context that will do when memory is short; default 512.
    #[uniffi(default)]
    pub least_ctx: Option<u32>,
}

/// The memory of inference.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct InferencePlan {
    /// The most anonymous memory at a time, in bytes.
    pub peak_bytes: u64,
    /// Bytes of weights that are mapped: the system takes their pages back when it needs them.
    pub mapped_bytes: u64,
    /// The parts of the peak.
    pub parts: Vec<PlanPart>,
    /// Context of the session that it is for.
    pub n_ctx: u32,
    /// Its batch.
    pub n_batch: u32,
    /// Its precision of keys and values.
    pub kv_type: KvType,
    /// Tokens of the largest picture that it is for.
    pub image_tokens: u32,
    /// Pixels of such a picture.
    pub max_pixels: u64,
}

/// The memory of training.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct AdaptationPlan {
    /// The most anonymous memory at a time, in bytes.
    pub peak_bytes: u64,
    /// Bytes of weights that are mapped: the system takes their pages back when it needs them.
    pub mapped_bytes: u64,
    /// The parts of the peak.
    pub parts: Vec<PlanPart>,
}

/// The memory that sessions of the model at `path` will take, with the image projector at `mmproj` if they see pictures.
///
/// Throws `Limit` with the numbers, and what would fit, when there is a budget and nothing fits it; as `Model.load`.
#[uniffi::export(default(mmproj = None), default(request))]
pub async fn plan_inference(path: String, mmproj: Option<String>, request: InferenceRequest) -> Result<InferencePlan> {
    let request = request.build()?;
    let plan = background("owlet-plan", &CancelToken::new(), move |_| {
        let file = GgufFile::open(Path::new(&path))?;
        let mmproj = mmproj.map(|mmproj| GgufFile::open(Path::new(&mmproj))).transpose()?;
        match request.session.memory_budget {
            Some(budget) => runtime::InferencePlan::fit(&file, mmproj.as_ref(), &request, budget),
            None => runtime::InferencePlan::new(&file, mmproj.as_ref(), &request),
        }
    });
    Ok(plan.await?.into())
}

/// The memory that training over the model at `path` will take, with the image projector at `mmproj` if its samples have pictures.
/// It runs the training engine's code without its numbers.
///
/// Throws `Limit` with the numbers, and what would fit, when there is a budget and nothing fits it; as `AdaptJob.open`.
#[uniffi::export(default(mmproj = None), default(options))]
pub async fn plan_adaptation(path: String, mmproj: Option<String>, options: AdaptOptions) -> Result<AdaptationPlan> {
    let options = options.build()?;
    let plan = background("owlet-plan", &CancelToken::new(), move |_| {
        let file = Arc::new(GgufFile::open(Path::new(&path))?);
        let mmproj_bytes = match &mmproj {
            Some(path) => file_bytes(Path::new(path))?,
            None => 0,
        };
        plan_training(&file, mmproj_bytes, &options)
    });
    Ok(plan.await?.into())
}

fn file_bytes(path: &Path) -> runtime::Result<usize> {
    let metadata = std::fs::metadata(path);
    let metadata = metadata.map_err(|source| runtime::Error::io("cannot read image projector", path, source))?;
    Ok(bytes(metadata.len()))
}

fn plan_training(
    file: &Arc<GgufFile>,
    mmproj_bytes: usize,
    options: &TrainerOptions,
) -> runtime::Result<training::MemoryPlan> {
    // A question is seldom without words: a picture of all its tokens is the most that may come.
    let n_image = if mmproj_bytes > 0 { options.max_prompt_tokens } else { 0 };
    let request = training::PlanRequest { file, mmproj_bytes, n_image, options };
    training::MemoryPlan::fit(&request, options.memory_budget.unwrap_or(usize::MAX))
}

impl InferenceRequest {
    fn build(self) -> Result<runtime::InferenceRequest> {
        let default = runtime::InferenceRequest::default();
        let n = |count: Option<u32>, default: usize| count.map_or(default, |count| count as usize);
        Ok(runtime::InferenceRequest {
            session: self.session.build()?.session,
            max_image_tokens: n(self.max_image_tokens, default.max_image_tokens),
            n_pictures: n(self.n_pictures, default.n_pictures),
            adapter_bytes: bytes(self.adapter_bytes),
            repack: self.repack,
            least_ctx: n(self.least_ctx, default.least_ctx),
            ..default
        })
    }
}

impl From<runtime::InferencePlan> for InferencePlan {
    fn from(plan: runtime::InferencePlan) -> Self {
        let part = |&(part, n_bytes): &(runtime::InferencePart, usize)| PlanPart {
            name: part.name().to_owned(),
            n_bytes: n_bytes as u64,
        };
        Self {
            peak_bytes: plan.peak_bytes() as u64,
            mapped_bytes: plan.mapped_bytes as u64,
            parts: plan.parts.iter().map(part).collect(),
            n_ctx: plan.session.n_ctx as u32,
            n_batch: plan.session.n_ubatch as u32,
            kv_type: plan.session.kv_type.into(),
            image_tokens: plan.image_tokens as u32,
            max_pixels: plan.max_pixels,
        }
    }
}

impl From<training::MemoryPlan> for AdaptationPlan {
    fn from(plan: training::MemoryPlan) -> Self {
        let part = |&(part, n_bytes): &(training::Part, usize)| PlanPart {
            name: part.name().to_owned(),
            n_bytes: n_bytes as u64,
        };
        Self {
            peak_bytes: plan.peak_bytes() as u64,
            mapped_bytes: plan.mapped_bytes as u64,
            parts: plan.parts.iter().map(part).collect(),
        }
    }
}
