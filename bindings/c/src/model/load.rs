//! Loading.

use std::{
    ffi::{c_char, c_void},
    ops::ControlFlow,
};

use owlet_runtime::{DeviceChoice, Model, ModelOptions, Result};

use super::{LoadedModel, owlet_model};
use crate::{
    answer::{callback_failed, owlet_flow},
    boundary::{self, Out},
    cancel::{self, owlet_cancel_token},
    error::{owlet_error, owlet_status},
    input::{self, versioned},
};

/// Told how far loading is, from 0 to 1, on the thread of the call, before it returns. Returns an owlet_flow;
/// OWLET_FLOW_STOP ends loading with OWLET_STATUS_CANCELLED, any other number with OWLET_STATUS_CALLBACK.
pub type owlet_load_callback = Option<unsafe extern "C" fn(user_data: *mut c_void, fraction: f32) -> i32>;

/// How a model is loaded. 0 and NULL stand for the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_model_options {
    /// sizeof(owlet_model_options), set by the caller.
    pub struct_size: usize,
    /// Path of the image projector; default NULL: the one beside the model (mmproj*.gguf), or none when there is none.
    pub mmproj: *const c_char,
    /// "auto", "cpu", "gpu" (a graphics processor or an error), or the name of a device; default NULL: "auto".
    pub device: *const c_char,
    /// Smallest number of pixels of a picture as the model sees it; default: the projector's number.
    pub min_pixels: u64,
    /// Largest number of pixels; default: the projector's number. Time and memory grow faster than the pixels.
    pub max_pixels: u64,
    /// Threads of the image encoder, at most 512; default 0: one per core.
    pub n_threads: usize,
    /// Layers kept on a graphics processor, where there is one; default 0: all. For none, set `device` to "cpu".
    pub gpu_layers: u32,
    /// Not 0: leave pictures alone even when a projector is there, which saves its memory.
    pub text_only: u32,
    /// Not 0: let llama.cpp copy weights into layouts that suit the processor: faster long prompts with some types, for a
    /// second copy of the weights.
    pub repack: u32,
    /// Told how far loading is; default NULL.
    pub on_progress: owlet_load_callback,
    /// Given to `on_progress`.
    pub user_data: *mut c_void,
}

versioned!(owlet_model_options);

/// Loads the model at `path` and its image projector; returns when it is loaded. `options` and `cancel` may be NULL. Files are
/// checked before llama.cpp sees them, so a damaged one is an error. The caller frees `*out` by owlet_model_free(). May be
/// called from any thread, for several models at once.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_model_load(
    path: *const c_char,
    options: *const owlet_model_options,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_model,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, path, given) = unsafe { (Out::new(out)?, input::path(path, "path")?, input::options(options)?) };
        // SAFETY: as above.
        let (options, cancel) = (unsafe { read(&given) }?, cancel::token(cancel)?);
        let mut failed = None;
        let mut on_progress = |fraction| {
            let Some(callback) = given.on_progress else { return ControlFlow::Continue(()) };
            // SAFETY: the caller gave a function of this type and its data.
            let flow = unsafe { callback(given.user_data, fraction) };
            if flow == owlet_flow::Continue as i32 {
                return ControlFlow::Continue(());
            }
            if flow != owlet_flow::Stop as i32 {
                failed.get_or_insert(flow);
            }
            ControlFlow::Break(())
        };
        let loaded = Model::load_watched(path, &options, &cancel, &mut on_progress);
        out.put(LoadedModel::new(failed.map_or(loaded, |number| Err(callback_failed(number)))?));
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// # Safety
/// Strings of `given` are as the header says.
unsafe fn read(given: &owlet_model_options) -> Result<ModelOptions> {
    // SAFETY: by the contract above.
    let (mmproj, device) =
        unsafe { (input::optional_path(given.mmproj, "mmproj")?, input::optional_text(given.device, "device")?) };
    let some = |pixels: u64| (pixels > 0).then_some(pixels);
    let Ok(device) = device.unwrap_or("auto").parse::<DeviceChoice>();
    Ok(ModelOptions {
        mmproj,
        text_only: given.text_only != 0,
        device,
        gpu_layers: if given.gpu_layers == 0 { -1 } else { i32::try_from(given.gpu_layers).unwrap_or(i32::MAX) },
        repack: given.repack != 0,
        n_threads: given.n_threads,
        min_pixels: some(given.min_pixels),
        max_pixels: some(given.max_pixels),
    })
}
