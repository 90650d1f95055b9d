//! The gradient that passes through a frozen, packed weight, `dx = Wᵀ dy`: ours against ggml's own backward operation.
//!
//! `cargo bench --profile dev -p owlet-runtime --bench out_prod [-- THREADS]` prints seconds for Q4_K weights of 2048x6144 and
//! 512 tokens, the ratio, and the largest difference of the results. It stands here because it calls llama-cpp-sys-2.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::time::Instant;

use llama_cpp_sys_2 as sys;
use owlet_runtime::{
    ggml::Backend,
    gguf::{GgmlType, GgufFile, GgufWriter},
    quantize::quantize_rows,
    rng::Rng,
};

const N_IN: usize = 2048;
const N_OUT: usize = 6144;
const N_TOKENS: usize = 512;
const DTYPE: GgmlType = GgmlType::Q4K;
const N_REPEATS: usize = 3;

fn main() {
    let n_threads = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(2);
    let mut rng = Rng::keyed(&[1]);
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| (rng.uniform() - 0.5) as f32).collect() };
    let packed = quantize_rows(DTYPE, N_IN, &numbers(N_IN * N_OUT)).unwrap();
    let dy = numbers(N_OUT * N_TOKENS);

    let (ours, ours_seconds) = ours(&packed, &dy, n_threads);
    let (theirs, theirs_seconds) = theirs(&packed, &dy, n_threads);
    let largest = theirs.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let difference = ours.iter().zip(&theirs).fold(0.0f32, |difference, (a, b)| difference.max((a - b).abs()));
    println!("out_prod {theirs_seconds:.3} s, product {ours_seconds:.3} s, {:.1} times", theirs_seconds / ours_seconds);
    println!("largest difference {difference:.1e} of {largest:.1}");
}

fn ours(packed: &[u8], dy: &[f32], n_threads: usize) -> (Vec<f32>, f64) {
    let mut writer = GgufWriter::new();
    writer.declare("w", &[N_IN as u64, N_OUT as u64], DTYPE).unwrap();
    let mut stream = writer.start(Vec::new()).unwrap();
    stream.write_tensor("w", packed).unwrap();
    let file = std::sync::Arc::new(GgufFile::from_bytes(stream.finish().unwrap()).unwrap());
    let mut backend = Backend::cpu(n_threads).unwrap();
    let weight = backend.weight(&file, "w").unwrap();
    let shapes: [(GgmlType, &[usize]); 2] = [(GgmlType::F32, &[N_OUT, N_TOKENS]), (GgmlType::F32, &[N_IN, N_TOKENS])];
    let stored = backend.allocate(&shapes).unwrap();
    backend.write(&stored[0], dy);
    let mut best = f64::INFINITY;
    for _ in 0..N_REPEATS {
        let mut graph = backend.graph(16);
        let (w, dy) = (graph.leaf(&weight), graph.leaf(&stored[0]));
        let (w, dy) = (graph.transpose(w), graph.pack(dy));
        let dx = graph.product(w, dy);
        graph.place(dx, &stored[1]);
        let start = Instant::now();
        backend.run(graph).unwrap();
        best = best.min(start.elapsed().as_secs_f64());
    }
    (backend.read_all(&stored[1]), best)
}

fn theirs(packed: &[u8], dy: &[f32], n_threads: usize) -> (Vec<f32>, f64) {
    let bytes = packed.len() + 4 * (dy.len() + N_IN * N_TOKENS) + (64 << 20);
    let params = sys::ggml_init_params { mem_size: bytes, mem_buffer: std::ptr::null_mut(), no_alloc: false };
    // SAFETY: the context has room for the three tensors, their descriptions, the graph and its work memory; the copies
    // have the lengths of their tensors; nothing of it is used after `ggml_free`.
    unsafe {
        let context = sys::ggml_init(params);
        let weight = sys::ggml_new_tensor_2d(context, DTYPE.id(), N_IN as i64, N_OUT as i64);
        let gradient = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F32, N_OUT as i64, N_TOKENS as i64);
        std::ptr::copy_nonoverlapping(packed.as_ptr(), (*weight).data.cast(), packed.len());
        std::ptr::copy_nonoverlapping(dy.as_ptr(), (*gradient).data.cast(), dy.len());
        // As ggml's own differentiation of `mul_mat` writes it.
        let dx = sys::ggml_out_prod(context, weight, sys::ggml_transpose(context, gradient));
        let graph = sys::ggml_new_graph(context);
        sys::ggml_build_forward_expand(graph, dx);
        let mut best = f64::INFINITY;
        for _ in 0..N_REPEATS {
            let start = Instant::now();
            sys::ggml_graph_compute_with_ctx(context, graph, n_threads as i32);
            best = best.min(start.elapsed().as_secs_f64());
        }
        let result = std::slice::from_raw_parts((*dx).data.cast::<f32>(), N_IN * N_TOKENS).to_vec();
        sys::ggml_free(context);
        (result, best)
    }
}
