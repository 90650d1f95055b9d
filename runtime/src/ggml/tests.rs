use std::sync::Arc;

use super::*;
use crate::gguf::{GgmlType, GgufFile, GgufWriter};

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 23) as f32 - 11.0) / 7.0).collect()
}

/// Runs one operation over F32 inputs of the given shapes and returns the result's shape and numbers.
fn compute(inputs: &[&[usize]], build: impl FnOnce(&mut Graph, &[Tensor]) -> Tensor) -> (Shape, Vec<f32>) {
    let mut backend = Backend::cpu(2).expect("a processor");
    let mut graph = backend.graph(64);
    let leaves: Vec<_> = inputs
        .iter()
        .map(|shape| {
            let stored = backend.allocate(&[(GgmlType::F32, shape)]).expect("memory").remove(0);
            backend.write(&stored, &numbers(stored.n_elements()));
            graph.leaf(&stored)
        })
        .collect();
    let result = build(&mut graph, &leaves);
    let shape = graph.shape(result);
    let output = backend.allocate(&[(GgmlType::F32, &shape)]).expect("memory").remove(0);
    let target = graph.leaf(&output);
    graph.copy(result, target);
    backend.run(graph).expect("runs");
    (shape, backend.read_all(&output))
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        // Sums of at most a few dozen products of numbers below 2.
        assert!((got - expected).abs() < 1e-4, "element {index}: got {got}, expected {expected}");
    }
}

#[test]
fn matrix_products_contract_over_rows_and_repeat_the_first_operand() {
    let (k, m, n) = (20, 8, 5);
    let (shape, got) = compute(&[&[k, m], &[k, n, 3]], |g, x| g.mul_mat(x[0], x[1]));
    assert_eq!(shape, [m, n, 3, 1]);
    let (a, b) = (numbers(k * m), numbers(k * n * 3));
    let dot = |row: usize, column: usize| (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum();
    let expected: Vec<f32> = (0..n * 3).flat_map(|column| (0..m).map(move |row| dot(row, column))).collect();
    assert_close(&got, &expected);
}

#[test]
fn sums_of_products_take_operands_of_any_type_strides_and_size() {
    use crate::quantize::{dequantize_rows, quantize_rows};
    // Below, at and above what kernels take at a time; depths are whole blocks where the type has blocks.
    let sizes: [(usize, usize, usize); 6] =
        [(5, 3, 1), (512, 33, 13), (768, 300, 14), (256, 512, 7), (257, 256, 2), (40, 290, 30)];
    let types = [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q4_1, GgmlType::Q4K, GgmlType::Q6K];
    for (k, m, n) in sizes {
        for (dtype, is_transposed) in types.iter().flat_map(|&dtype| [(dtype, false), (dtype, true)]) {
            // Rows of the stored matrix.
            let (width, height) = if is_transposed { (m, k) } else { (k, m) };
            if !width.is_multiple_of(dtype.block_size() as usize) {
                continue;
            }
            let packed = quantize_rows(dtype, width, &numbers(width * height)).expect("packs");
            let a = dequantize_rows(dtype, &packed).expect("unpacks");
            let (b, extra) = (numbers(k * n), numbers(2 * m));
            let at = |row: usize, step: usize| if is_transposed { a[step * m + row] } else { a[row * k + step] };
            let element = |row: usize, column: usize| {
                let product: f64 = (0..k).map(|i| f64::from(at(row, i)) * f64::from(b[column * k + i])).sum();
                let second = (0..2).map(|i| f64::from(extra[row * 2 + i] * b[column * 2 + i])).sum::<f64>();
                (product + second) as f32
            };
            let expected: Vec<f32> = (0..n).flat_map(|column| (0..m).map(move |row| element(row, column))).collect();
            for (n_threads, has_addend) in [(1, false), (3, false), (3, true)] {
                let mut backend = Backend::cpu(n_threads).expect("a processor");
                let shapes: [(GgmlType, &[usize]); 6] = [
                    (dtype, &[width, height]),
                    (GgmlType::F32, &[n, k]),
                    (GgmlType::F32, &[2, m]),
                    (GgmlType::F32, &[2, n]),
                    (GgmlType::F32, &[m, n]),
                    (GgmlType::F32, &[m, n]),
                ];
                let stored = backend.allocate(&shapes).expect("memory");
                backend.write_bytes(&stored[0], &packed);
                let by_step: Vec<f32> =
                    (0..k).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| b[j * k + i]).collect();
                backend.write(&stored[1], &by_step);
                backend.write(&stored[2], &extra);
                backend.write(&stored[3], &b[..2 * n]);
                let addend = if has_addend { numbers(m * n) } else { vec![0.0; m * n] };
                backend.write(&stored[5], &addend);
                let mut graph = backend.graph(32);
                let [w, x, c, d] = [0, 1, 2, 3].map(|index| graph.leaf(&stored[index]));
                let w = if is_transposed { graph.transpose(w) } else { w };
                let x = graph.transpose(x);
                let (x, d) = (graph.pack(x), graph.pack(d));
                let leaf = has_addend.then(|| graph.leaf(&stored[5]));
                let sum = graph.add_products(leaf, &[(w, x), (c, d)]);
                graph.place(sum, &stored[4]);
                backend.run(graph).expect("runs");
                let expected = expected.iter().zip(&addend).map(|(sum, addend)| sum + addend);
                for (index, (got, expected)) in backend.read_all(&stored[4]).iter().zip(expected).enumerate() {
                    let name = format!("{dtype} {k} x {m} x {n}, transposed {is_transposed}, {n_threads} threads");
                    assert!((got - expected).abs() < 2e-3, "{name}: element {index}: {got} for {expected}");
                }
            }
        }
    }
}

#[test]
fn products_repeat_the_first_operand_over_further_dimensions() {
    let (shape, got) = compute(&[&[20, 8, 2], &[20, 5, 4, 3]], |g, x| {
        let b = g.pack(x[1]);
        g.product(x[0], b)
    });
    let expected = compute(&[&[20, 8, 2], &[20, 5, 4, 3]], |g, x| g.mul_mat(x[0], x[1]));
    assert_eq!(shape, expected.0);
    assert_close(&got, &expected.1);
}

#[test]
fn rows_are_dotted_gathered_and_sliced() {
    let (shape, got) = compute(&[&[7, 3, 2], &[7, 3, 2]], |g, x| g.dot_rows(x[0], x[1]));
    assert_eq!(shape, [1, 3, 2, 1]);
    let values = numbers(42);
    let squares: Vec<f32> = values.chunks(7).map(|row| row.iter().map(|x| x * x).sum()).collect();
    assert_close(&got, &squares);

    let (shape, got) = compute(&[&[4, 6]], |g, x| g.slice(x[0], 1, 2, 3));
    assert_eq!(shape, [4, 3, 1, 1]);
    assert_close(&got, &numbers(24)[8..20]);
}

#[test]
fn matrices_are_transposed_alike_by_blocks_and_by_ggml() {
    for [m, n] in [[2, 3], [16, 16], [33, 17], [1, 50], [40, 1]] {
        let (shape, got) = compute(&[&[m, n, 2]], |g, x| g.transposed(x[0]));
        assert_eq!(shape, [n, m, 2, 1]);
        let x = numbers(m * n * 2);
        let element = |matrix: usize, row: usize, column: usize| x[(matrix * n + column) * m + row];
        let rows = (0..2).flat_map(|matrix| (0..m).map(move |row| (matrix, row)));
        let expected: Vec<f32> =
            rows.flat_map(|(matrix, row)| (0..n).map(move |column| element(matrix, row, column))).collect();
        assert_close(&got, &expected);

        // A slice: rows that are not neighbours in memory.
        let part = |g: &mut Graph, x: &[Tensor]| {
            let view = g.slice(x[0], 0, 1, m.max(2) - 1);
            g.transposed(view)
        };
        let general = |g: &mut Graph, x: &[Tensor]| {
            let view = g.slice(x[0], 0, 1, m.max(2) - 1);
            let view = g.permute(view, [1, 0, 2, 3]);
            g.contiguous(view)
        };
        let shape = [m.max(2), n, 2];
        assert_eq!(compute(&[&shape], part), compute(&[&shape], general), "{m} x {n}");
    }
}

#[test]
fn changes_in_place_are_seen_by_later_operations_only() {
    let (_, got) = compute(&[&[4, 2], &[4]], |g, x| {
        let doubled = g.scale(x[0], 2.0, 0.0);
        let before = g.scale(doubled, 1.0, 0.0);
        let second_row = g.slice(doubled, 1, 1, 1);
        g.add_into(second_row, x[1]);
        g.sub(doubled, before)
    });
    let expected: Vec<f32> = [0.0; 4].into_iter().chain(numbers(4)).collect();
    assert_close(&got, &expected);
}

#[test]
fn negated_positions_undo_a_rotation() {
    let sections = [3, 3, 2, 0];
    for mode in [RopeMode::Normal, RopeMode::Neox, RopeMode::Multi, RopeMode::Interleaved] {
        let n_tokens = 5;
        let rope = Rope { mode, n_rotated: 16, freq_base: 1e4, sections };
        let mut backend = Backend::cpu(1).expect("a processor");
        let n_positions = n_tokens * mode.positions_per_token();
        let positions: Vec<i32> = (0..n_positions as i32).map(|i| i * 3 % 17).collect();
        let stored =
            backend.allocate(&[(GgmlType::I32, &[n_positions]), (GgmlType::I32, &[n_positions])]).expect("memory");
        backend.write_i32(&stored[0], &positions);
        backend.write_i32(&stored[1], &positions.iter().map(|position| -position).collect::<Vec<_>>());
        let heads = backend.allocate(&[(GgmlType::F32, &[16, 2, n_tokens])]).expect("memory").remove(0);
        let values = numbers(heads.n_elements());
        backend.write(&heads, &values);
        let mut graph = backend.graph(16);
        let (x, forth, back) = (graph.leaf(&heads), graph.leaf(&stored[0]), graph.leaf(&stored[1]));
        let rotated = graph.rope(x, forth, None, &rope);
        let restored = graph.rope(rotated, back, None, &rope);
        let difference = graph.sub(rotated, x);
        let outputs =
            backend.allocate(&[(GgmlType::F32, &heads.shape()), (GgmlType::F32, &heads.shape())]).expect("memory");
        graph.place(restored, &outputs[0]);
        graph.place(difference, &outputs[1]);
        backend.run(graph).expect("runs");
        assert_close(&backend.read_all(&outputs[0]), &values);
        assert!(backend.read_all(&outputs[1]).iter().any(|x| x.abs() > 0.1), "{mode:?} turns something");
    }
}

#[test]
fn weights_are_used_where_the_file_is_mapped() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.gguf");
    let mut writer = GgufWriter::new();
    writer.declare("w", &[32, 4], GgmlType::F32).expect("a valid shape");
    let mut stream = writer.create(&path).expect("writable");
    stream.write_tensor("w", bytemuck::cast_slice(&numbers(128))).expect("written");
    stream.commit().expect("committed");

    let mut backend = Backend::cpu(1).expect("a processor");
    let file = Arc::new(GgufFile::open(&path).expect("valid"));
    let weight = backend.weight(&file, "w").expect("present");
    drop(file);
    assert_eq!((weight.shape(), weight.dtype()), ([32, 4, 1, 1], GgmlType::F32));
    assert_close(&backend.read_all(&weight), &numbers(128));
    let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| backend.zero(&weight)));
    assert!(written.is_err(), "weights of a file are read-only");
}

#[test]
fn an_arena_is_reused_and_grows() {
    let backend = Backend::cpu(1).expect("a processor");
    let mut arena = Arena::default();
    backend.carve(&mut arena, &[(GgmlType::F32, &[1000])]).expect("memory");
    let first = arena.n_bytes();
    backend.carve(&mut arena, &[(GgmlType::F32, &[10]), (GgmlType::I32, &[10])]).expect("memory");
    assert_eq!(arena.n_bytes(), first);
    backend.carve(&mut arena, &[(GgmlType::F32, &[9000])]).expect("memory");
    assert!(arena.n_bytes() > first);
}

/// What would abort the process inside ggml.
#[test]
fn operands_that_do_not_fit_panic() {
    type Build = fn(&mut Graph, &[Tensor]) -> Tensor;
    let cases: [(&str, Build); 8] = [
        ("mul_mat of other row lengths", |g, x| g.mul_mat(x[0], x[1])),
        ("add of shapes that do not repeat", |g, x| g.add(x[0], x[1])),
        ("transposed operand", |g, x| {
            let view = g.permute(x[0], [1, 0, 2, 3]);
            g.mul_mat(view, x[0])
        }),
        ("reshape to another size", |g, x| g.reshape(x[0], &[3])),
        ("slice outside", |g, x| g.slice(x[0], 1, 5, 9)),
        ("permutation with a repeated axis", |g, x| g.permute(x[0], [0, 0, 2, 3])),
        ("rows by numbers that are not integers", |g, x| g.get_rows(x[0], x[1])),
        ("a full graph", |g, x| (0..100).fold(x[0], |sum, _| g.scale(sum, 1.0, 0.0))),
    ];
    for (name, build) in cases {
        let outcome = std::panic::catch_unwind(|| compute(&[&[4, 6], &[5]], build));
        assert!(outcome.is_err(), "{name}");
    }
}

#[test]
fn a_tensor_of_another_graph_is_refused() {
    let backend = Backend::cpu(1).expect("a processor");
    let stored = backend.allocate(&[(GgmlType::F32, &[4])]).expect("memory").remove(0);
    let foreign = backend.graph(4).leaf(&stored);
    let outcome = std::panic::catch_unwind(|| Graph::new(4, true).sqrt(foreign));
    assert!(outcome.is_err());
}
