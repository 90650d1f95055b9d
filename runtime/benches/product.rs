//! Matrix products of the training engine in GFLOP/s, beside ggml's F32 `mul_mat` of the same shape in the same run.
//!
//! `cargo bench --profile dev -p owlet-runtime --bench product [-- THREADS]` prints a line for each shape: weights `[k, m]` of a
//! type, forwards (`Wx`) or back (`Wᵀ dy`), for n tokens. Rounds of both take turns, and the best of each counts.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may stop")]

use std::{sync::Arc, time::Instant};

use owlet_runtime::{
    ggml::{Backend, Stored},
    gguf::{GgmlType, GgufFile, GgufWriter},
    quantize::quantize_rows,
    rng::Rng,
};

const N_ROUNDS: usize = 12;

fn main() {
    let n_threads = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(2);
    let mut backend = Backend::cpu(n_threads).unwrap();
    for (k, m, n) in [(576, 576, 824), (576, 1536, 824), (1536, 576, 824), (2048, 6144, 512)] {
        for dtype in [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4K, GgmlType::Q6K] {
            if (k as u64).is_multiple_of(dtype.block_size()) {
                measure(&mut backend, dtype, (k, m, n));
            }
        }
    }
}

fn measure(backend: &mut Backend, dtype: GgmlType, (k, m, n): (usize, usize, usize)) {
    let mut rng = Rng::keyed(&[1]);
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| (rng.uniform() - 0.5) as f32).collect() };
    let weight = packed_weight(backend, dtype, (k, m), &numbers(k * m));
    let f32_weight = packed_weight(backend, GgmlType::F32, (k, m), &numbers(k * m));
    let stored = backend.allocate(&[(GgmlType::F32, &[k, n]), (GgmlType::F32, &[m, n])]).unwrap();
    let (x, y) = (&stored[0], &stored[1]);
    backend.write(x, &numbers(k * n));
    backend.write(y, &numbers(m * n));

    let mut best = [f64::INFINITY; 3];
    for _ in 0..N_ROUNDS {
        for (best, way) in best.iter_mut().zip([Way::Forward, Way::Back, Way::Ggml]) {
            let mut graph = backend.graph(16);
            let (input, output) = if way == Way::Back { (y, x) } else { (x, y) };
            let input = graph.leaf(input);
            let result = match way {
                Way::Ggml => {
                    let w = graph.leaf(&f32_weight);
                    graph.mul_mat(w, input)
                }
                _ => {
                    let mut w = graph.leaf(&weight);
                    if way == Way::Back {
                        w = graph.transpose(w);
                    }
                    let input = graph.pack(input);
                    graph.product(w, input)
                }
            };
            graph.place(result, output);
            let start = Instant::now();
            backend.run(graph).unwrap();
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    let [forward, back, ggml] = best.map(|seconds| 2.0 * (k * m * n) as f64 / seconds / 1e9);
    println!(
        "{dtype:>5} [{k:4}, {m:4}] x {n}: Wx {forward:5.0}, Wᵀdy {back:5.0}, ggml's F32 mul_mat {ggml:5.0} GFLOP/s"
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
    Ggml,
}

/// A weight in a file, as models have them.
fn packed_weight(backend: &mut Backend, dtype: GgmlType, (k, m): (usize, usize), values: &[f32]) -> Stored {
    let mut writer = GgufWriter::new();
    writer.declare("w", &[k as u64, m as u64], dtype).unwrap();
    let mut stream = writer.start(Vec::new()).unwrap();
    stream.write_tensor("w", &quantize_rows(dtype, k, values).unwrap()).unwrap();
    backend.weight(&Arc::new(GgufFile::from_bytes(stream.finish().unwrap()).unwrap()), "w").unwrap()
}
