//! Models: loading, what they are, and what they say without a session.

mod load;

use std::{
    ffi::{CString, c_char},
    sync::Arc,
};

use owlet_runtime::{Image, Model, Placement, Result};

pub use self::load::*;
use crate::{
    boundary::{self, Out},
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    image::owlet_image,
    input::{self, versioned},
    message::pictures,
    text::{c_string, owlet_string, pointer},
};

/// A loaded model. It never changes, may be used by several threads and sessions at once, and stays in memory until its
/// handle and all that was made with it are freed.
pub struct owlet_model {
    _opaque: (),
}

/// A model with the strings that its info borrows.
pub(crate) struct LoadedModel {
    pub(crate) model: Model,
    architecture: CString,
    name: CString,
    quantization: CString,
    device: CString,
    no_gpu: Option<CString>,
}

impl Handle for owlet_model {
    type Target = LoadedModel;
    const NAME: &'static str = "owlet_model";
}

impl LoadedModel {
    fn new(model: Model) -> Self {
        let (info, Placement { gpus, no_gpu, .. }) = (model.info(), model.placement());
        Self {
            architecture: c_string(&info.architecture),
            name: c_string(&info.name),
            quantization: c_string(&info.quantization),
            device: c_string(&if gpus.is_empty() { "CPU".to_owned() } else { gpus.join(", ") }),
            no_gpu: no_gpu.as_ref().map(|reason| c_string(&reason.to_string())),
            model,
        }
    }
}

/// The model behind a handle.
pub(crate) fn borrow(model: *const owlet_model) -> Result<Model> {
    Ok(handle::borrow(model)?.model.clone())
}

/// What a model is. Strings belong to the model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_model_info {
    /// sizeof(owlet_model_info), set by the caller.
    pub struct_size: usize,
    /// llama.cpp's name of the architecture, such as "qwen3vl".
    pub architecture: *const c_char,
    /// The name in the file; "" where it has none.
    pub name: *const c_char,
    /// llama.cpp's name of the quantization, such as "Q4_K - Medium".
    pub quantization: *const c_char,
    /// Devices that compute its layers, such as "CPU" or "Vulkan0".
    pub device: *const c_char,
    /// Why no graphics processor is among them, as a sentence; NULL where one is.
    pub no_gpu: *const c_char,
    /// Weights of the language model.
    pub n_params: u64,
    /// Size of the model file in bytes.
    pub n_bytes: u64,
    /// Size of the image projector's file in bytes; 0 where there is none.
    pub mmproj_bytes: u64,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Transformer layers.
    pub n_layer: usize,
    /// Context length that the model was trained with, in tokens.
    pub n_ctx_train: usize,
    /// Milliseconds that loading took.
    pub load_ms: f64,
    /// 1 if pictures can be shown to it, else 0.
    pub has_vision: u32,
}

versioned!(owlet_model_info);

/// Tells what `model` is in `*out`, whose `struct_size` the caller sets; strings in it live as long as the model's handle.
/// May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_model_get_info(
    model: *const owlet_model,
    out: *mut owlet_model_info,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let loaded = handle::borrow(model)?;
        let info = loaded.model.info();
        let info = owlet_model_info {
            architecture: loaded.architecture.as_ptr(),
            name: loaded.name.as_ptr(),
            quantization: loaded.quantization.as_ptr(),
            device: loaded.device.as_ptr(),
            no_gpu: pointer(loaded.no_gpu.as_deref()),
            n_params: info.n_params,
            n_bytes: info.n_bytes,
            mmproj_bytes: info.mmproj_bytes.unwrap_or(0),
            n_vocab: info.n_vocab,
            n_embd: info.n_embd,
            n_layer: info.n_layer,
            n_ctx_train: info.n_ctx_train,
            load_ms: loaded.model.load_ms(),
            has_vision: u32::from(loaded.model.has_vision()),
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, info) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Counts the places in the context that a user's turn of `text` with `n_images` pictures takes, the chat template's own
/// tokens included. No picture is encoded. `images` may be NULL where there are none. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_model_count_tokens(
    model: *const owlet_model,
    text: *const c_char,
    images: *const *const owlet_image,
    n_images: usize,
    out: *mut usize,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        if out.is_null() {
            return Err(boundary::null("out"));
        }
        // SAFETY: the caller's contract.
        let (text, images) = unsafe { (input::text(text, "text")?, pictures(images, n_images)?) };
        let sizes: Vec<_> = images.iter().map(|image| (image.width(), image.height())).collect();
        let n_tokens = borrow(model)?.count_tokens(text, &sizes)?;
        // SAFETY: the caller's contract; not NULL.
        unsafe { out.write(n_tokens) };
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Maps a box (left, top, right, bottom) from the numbers that `model` writes about `image` to pixels of the upright picture,
/// clamped to it. `corners` and `out` are four numbers each, and may be the same. `image` is the picture as it was shown, under
/// the model's own limits of pixels. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_model_box_to_pixels(
    model: *const owlet_model,
    image: *const owlet_image,
    corners: *const f64,
    out: *mut f64,
    error: *mut *mut owlet_error,
) -> owlet_status {
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, || map_box(corners, out, |corners| Ok(box_map(model, image)?.to_pixels(corners)))) }
}

/// The reverse of owlet_model_box_to_pixels(): what the model would write for a box in pixels. Models write whole numbers:
/// round them.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_model_box_from_pixels(
    model: *const owlet_model,
    image: *const owlet_image,
    corners: *const f64,
    out: *mut f64,
    error: *mut *mut owlet_error,
) -> owlet_status {
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, || map_box(corners, out, |corners| Ok(box_map(model, image)?.to_model(corners)))) }
}

unsafe fn map_box(corners: *const f64, out: *mut f64, map: impl FnOnce([f64; 4]) -> Result<[f64; 4]>) -> Result<()> {
    if corners.is_null() || out.is_null() {
        return Err(boundary::null("corners, out"));
    }
    // SAFETY: by the contract of the callers, four numbers each; of any alignment.
    unsafe {
        let mapped = map(corners.cast::<[f64; 4]>().read_unaligned())?;
        out.cast::<[f64; 4]>().write_unaligned(mapped);
    }
    Ok(())
}

fn box_map(model: *const owlet_model, image: *const owlet_image) -> Result<owlet_runtime::BoxMap> {
    let (model, image): (Model, Arc<Image>) = (borrow(model)?, handle::borrow(image)?);
    let no_vision = || {
        let error = owlet_runtime::Error::new(owlet_runtime::ErrorKind::Unsupported, "model sees no pictures");
        error.needed("an image projector")
    };
    model.box_map(&image, model.image_budget().ok_or_else(no_vision)?)
}

/// Finds the calls of tools in `answer`, as the model's chat template teaches it to write them: `*out` is a JSON object of
/// `text` (what stands before the first call), `calls` (objects of `name` and `arguments`) and `malformed` (objects of `text`
/// and `problem`). Ask only where tools were given. Turns of a session have their calls already. The caller frees `*out` by
/// owlet_string_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_model_find_tool_calls(
    model: *const owlet_model,
    answer: *const c_char,
    out: *mut *mut owlet_string,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, answer) = unsafe { (Out::new(out)?, input::text(answer, "answer")?) };
        let calls = borrow(model)?.tool_calls(answer);
        out.put(c_string(&json(&calls)));
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// `value` as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Frees a model's handle. NULL is ignored. Sessions and adapters made with it go on; the memory is given back with the last
/// of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_model_free(model: *mut owlet_model) {
    boundary::free(model);
}
