//! The image encoder: a picture of the right size in, embeddings for the language model out.
//!
//! mtmd's own resize pads with black where Hugging Face stretches, so pictures come here at their final size, which mtmd
//! leaves alone; of mtmd's prompt handling nothing is used.

use std::{
    path::Path,
    ptr::{self, NonNull},
    slice,
    time::Instant,
};

use llama_cpp_sys_2 as sys;

use crate::{
    Error, ErrorKind, Result, backend,
    cancel::CancelToken,
    device,
    image::Image,
    model::c_path,
    prompt::ImageEmbedding,
    watch::{GraphWatch, LoadWatch, on_graph_node, on_load_progress},
};

/// Upper end of what mtmd lets through; the budget was applied before.
pub(crate) const MAX_IMAGE_TOKENS: usize = 1 << 16;

/// A loaded projector. Its encoder has one set of buffers: callers take turns.
pub(crate) struct Projector {
    raw: NonNull<sys::mtmd_context>,
    /// Dropped after the context, which asks it.
    watch: GraphWatch,
    /// Floats per token.
    width: usize,
    /// Pixels per side of a token.
    factor: u32,
}

// SAFETY: an mtmd context has no ties to the thread that made it; `&mut self` keeps calls apart.
unsafe impl Send for Projector {}

impl Projector {
    /// Loads the projector at `path` for the language model `weights`, whose inputs are `width` floats wide, onto the GPU of a
    /// name or none.
    ///
    /// # Safety
    /// `weights` is alive as long as the result is.
    ///
    /// # Errors
    /// `Backend` with the log's reason; `Cancelled` by `progress`.
    pub(crate) unsafe fn load(
        path: &Path,
        weights: NonNull<sys::llama_model>,
        width: usize,
        factor: u32,
        n_threads: usize,
        gpu: Option<&str>,
        progress: &mut LoadWatch<'_>,
    ) -> Result<Self> {
        let c_path = c_path(path)?;
        // SAFETY: plain data.
        let mut params = unsafe { sys::mtmd_context_params_default() };
        params.use_gpu = gpu.is_some();
        params.device = gpu.and_then(device::handle).unwrap_or(ptr::null_mut());
        params.print_timings = false;
        params.n_threads = n_threads as i32;
        // The warm-up pass would encode a picture of the largest size, memory and all.
        params.warmup = false;
        params.image_min_tokens = 1;
        params.image_max_tokens = MAX_IMAGE_TOKENS as i32;
        let watch = GraphWatch::new();
        params.cb_eval = Some(on_graph_node);
        params.cb_eval_user_data = watch.as_callback_data();
        params.progress_callback = Some(on_load_progress);
        params.progress_callback_user_data = progress.as_callback_data();
        let loaded = backend::explain("cannot load image projector", || {
            // SAFETY: the path is NUL-terminated, the model alive (contract), the parameters the library's defaults
            // with plain values and callbacks: `progress` is borrowed until the call is over and is not used otherwise,
            // `watch` ends up beside the context.
            NonNull::new(unsafe { sys::mtmd_init_from_file(c_path.as_ptr(), weights.as_ptr(), params) })
        });
        let loaded = loaded.map(|raw| Self { raw, watch, width, factor });
        progress.check()?;
        loaded.map_err(|error| error.at(path.display()))
    }

    /// Encodes `image`, whose sides are multiples of the factor.
    ///
    /// # Errors
    /// `InvalidInput` for another size, `Limit` for more than 65,536 tokens, `Cancelled`, `Backend` when the encoder fails.
    pub(crate) fn encode(&mut self, image: &Image, cancel: &CancelToken) -> Result<ImageEmbedding> {
        let start = Instant::now();
        let (grid_w, grid_h) = (image.width() / self.factor, image.height() / self.factor);
        let n_tokens = grid_w as usize * grid_h as usize;
        let size = || format!("{}x{}", image.width(), image.height());
        if grid_w * self.factor != image.width() || grid_h * self.factor != image.height() {
            let error = Error::new(ErrorKind::InvalidInput, "picture was not resized").got(size());
            return Err(error.needed(format!("sides of a multiple of {}", self.factor)));
        }
        if n_tokens > MAX_IMAGE_TOKENS {
            let error = Error::new(ErrorKind::Limit, "picture too large").got(format!("{n_tokens} tokens"));
            return Err(error.needed(format!("at most {MAX_IMAGE_TOKENS}")));
        }
        cancel.check()?;
        self.watch.set(cancel);
        let data = backend::explain("cannot encode picture", || self.run(image, n_tokens));
        // A graph that was stopped looks like one that was not.
        cancel.check()?;
        let data = data.map_err(|error| error.at(size()))?;
        let encode_ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(ImageEmbedding { n_tokens, grid_w, grid_h, width_embd: self.width, data, encode_ms })
    }

    /// The encoder's output, `n_tokens` rows of `width`; `None` when mtmd refuses, with the reason in the log.
    fn run(&mut self, image: &Image, n_tokens: usize) -> Option<Vec<f32>> {
        let chunks = Chunks::new()?;
        let bitmap = Bitmap::new(image)?;
        // SAFETY: mtmd's own marker, a NUL-terminated string of the context.
        let marker = unsafe { std::ffi::CStr::from_ptr(sys::mtmd_get_marker(self.raw.as_ptr())) };
        let text = sys::mtmd_input_text {
            text: marker.as_ptr(),
            text_len: marker.count_bytes(),
            add_special: false,
            parse_special: true,
        };
        let mut bitmaps = [bitmap.0.as_ptr().cast_const()];
        // SAFETY: context, list, text and bitmap are alive and described by their own lengths; the chunks found are
        // owned by the list, which outlives their use; the output belongs to the context until its next encode and
        // holds one row of `width` floats for each of the chunk's tokens (mtmd checked the width when it was loaded).
        unsafe {
            let status =
                sys::mtmd_tokenize(self.raw.as_ptr(), chunks.0.as_ptr(), &raw const text, bitmaps.as_mut_ptr(), 1);
            if status != 0 {
                return None;
            }
            let n_chunks = sys::mtmd_input_chunks_size(chunks.0.as_ptr());
            let chunk = (0..n_chunks)
                .map(|index| sys::mtmd_input_chunks_get(chunks.0.as_ptr(), index))
                .find(|&chunk| sys::mtmd_input_chunk_get_type(chunk) == sys::MTMD_INPUT_CHUNK_TYPE_IMAGE)?;
            if sys::mtmd_input_chunk_get_n_tokens(chunk) != n_tokens {
                return None;
            }
            if sys::mtmd_encode_chunk(self.raw.as_ptr(), chunk) != 0 {
                return None;
            }
            let output = NonNull::new(sys::mtmd_get_output_embd(self.raw.as_ptr()))?;
            Some(slice::from_raw_parts(output.as_ptr(), n_tokens * self.width).to_vec())
        }
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        // SAFETY: made by mtmd_init_from_file, freed once.
        unsafe { sys::mtmd_free(self.raw.as_ptr()) }
    }
}

/// Owner of mtmd's list of prompt parts.
struct Chunks(NonNull<sys::mtmd_input_chunks>);

impl Chunks {
    fn new() -> Option<Self> {
        // SAFETY: no arguments.
        NonNull::new(unsafe { sys::mtmd_input_chunks_init() }).map(Self)
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // SAFETY: made by mtmd_input_chunks_init, freed once.
        unsafe { sys::mtmd_input_chunks_free(self.0.as_ptr()) }
    }
}

/// Owner of mtmd's copy of a picture.
struct Bitmap(NonNull<sys::mtmd_bitmap>);

impl Bitmap {
    fn new(image: &Image) -> Option<Self> {
        // SAFETY: mtmd copies width x height x 3 bytes, which is what an `Image` holds.
        NonNull::new(unsafe { sys::mtmd_bitmap_init(image.width(), image.height(), image.rgb().as_ptr()) }).map(Self)
    }
}

impl Drop for Bitmap {
    fn drop(&mut self) {
        // SAFETY: made by mtmd_bitmap_init, freed once.
        unsafe { sys::mtmd_bitmap_free(self.0.as_ptr()) }
    }
}
