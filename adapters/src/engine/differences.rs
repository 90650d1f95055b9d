//! Every backward formula of the engine against finite differences of its own forward formula, one operation at a time.
//!
//! The loss is `sum(weights * y)` with random weights; the operand moves along a random direction, by which the gradient must
//! predict the change.

use std::sync::Arc;

use owlet_runtime::{
    ggml::{Backend, Graph, Rope, RopeMode, Shape, Stored, Tensor},
    gguf::{GgmlType, GgufFile, GgufWriter},
    rng::Rng,
};

use super::{
    adapter::{AdapterLeaves, Factors},
    attention::{Attention, BlockLeaves, Packed},
    family::{Decoder, tests::decoder},
    layout::{Block, Layout},
    linear::{self, Back, Input},
    norm,
    tape::Tape,
    weights::Linear,
};

const STEP: f32 = 1e-2;

/// Relative error that a slope may have: F32 sums of a few hundred terms, divided by the step, and its curvature.
const TOLERANCE: f64 = 5e-3;

fn random(key: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::keyed(&[key, 77]);
    (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// The gradients of all operands for that of the result.
type Backward<'a> = dyn Fn(&mut Graph, &[Tensor], Tensor) -> Vec<Tensor> + 'a;

/// Checks `backward` against differences of `forward`; returns the result and the gradients.
fn check(
    name: &str,
    backend: &mut Backend,
    shapes: &[&[usize]],
    forward: &dyn Fn(&mut Graph, &[Tensor]) -> Tensor,
    backward: &Backward<'_>,
) -> Vec<Vec<f32>> {
    let stored: Vec<Stored> = shapes
        .iter()
        .zip(1..)
        .map(|(shape, key)| {
            let stored = backend.allocate(&[(GgmlType::F32, shape)]).expect("memory").remove(0);
            backend.write(&stored, &random(key, stored.n_elements()));
            stored
        })
        .collect();
    let run = |backend: &mut Backend, build: &dyn Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>| -> Vec<Vec<f32>> {
        let mut graph = backend.graph(2048);
        let leaves: Vec<_> = stored.iter().map(|stored| graph.leaf(stored)).collect();
        let results = build(&mut graph, &leaves);
        let outputs: Vec<_> = results
            .iter()
            .map(|&result| {
                let shape: Shape = graph.shape(result);
                let output = backend.allocate(&[(GgmlType::F32, &shape)]).expect("memory").remove(0);
                let place = graph.leaf(&output);
                graph.copy(result, place);
                output
            })
            .collect();
        backend.run(graph).expect("runs");
        outputs.iter().map(|output| backend.read_all(output)).collect()
    };
    let y = run(backend, &|graph, leaves| vec![forward(graph, leaves)]).remove(0);
    let weights = random(99, y.len());
    let shape = {
        let mut graph = backend.graph(2048);
        let leaves: Vec<_> = stored.iter().map(|stored| graph.leaf(stored)).collect();
        let y = forward(&mut graph, &leaves);
        graph.shape(y)
    };
    let dy = backend.allocate(&[(GgmlType::F32, &shape)]).expect("memory").remove(0);
    backend.write(&dy, &weights);
    let gradients = run(backend, &|graph, leaves| {
        let dy = graph.leaf(&dy);
        backward(graph, leaves, dy)
    });
    assert_eq!(gradients.len(), stored.len(), "{name}");
    for (index, (operand, gradient)) in stored.iter().zip(&gradients).enumerate() {
        let values = backend.read_all(operand);
        // Half the gradient's own direction, half a random one: the first cannot be small, the second finds what is missing.
        let scale = (dot(gradient, gradient) / gradient.len() as f64).sqrt().max(1e-9) as f32;
        let direction: Vec<f32> = gradient.iter().zip(random(7, gradient.len())).map(|(&g, r)| g / scale + r).collect();
        let mut loss_at = |step: f32| {
            let moved: Vec<f32> = values.iter().zip(&direction).map(|(&x, &d)| x + step * d).collect();
            backend.write(operand, &moved);
            dot(&run(backend, &|graph, leaves| vec![forward(graph, leaves)]).remove(0), &weights)
        };
        let slope = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * f64::from(STEP));
        backend.write(operand, &values);
        let expected = dot(gradient, &direction);
        let error = (slope - expected).abs() / expected.abs().max(0.1);
        assert!(error <= TOLERANCE, "{name}, operand {index}: slope {slope}, gradient {expected}");
    }
    std::iter::once(y).chain(gradients).collect()
}

fn backend() -> Backend {
    Backend::cpu(1).expect("a processor")
}

#[test]
fn norms() {
    let mut backend = backend();
    let gain = backend.allocate(&[(GgmlType::F32, &[12])]).expect("memory").remove(0);
    backend.write(&gain, &random(5, 12));
    for eps in [1e-6, 0.3] {
        let forward = |graph: &mut Graph, x: &[Tensor]| norm::forward(graph, x[0], &gain, eps);
        let backward = |graph: &mut Graph, x: &[Tensor], dy| vec![norm::backward(graph, x[0], &gain, dy, eps, None)];
        check("norm", &mut backend, &[&[12, 3, 4]], &forward, &backward);
        let residual = |graph: &mut Graph, x: &[Tensor]| {
            let update = norm::forward(graph, x[0], &gain, eps);
            graph.add(x[0], update)
        };
        let backward =
            |graph: &mut Graph, x: &[Tensor], dy| vec![norm::backward(graph, x[0], &gain, dy, eps, Some(dy))];
        check("residual norm", &mut backend, &[&[12, 3, 4]], &residual, &backward);
    }
}

#[test]
fn gates() {
    let forward = |graph: &mut Graph, x: &[Tensor]| graph.swiglu(x[0], x[1]);
    let backward = |graph: &mut Graph, x: &[Tensor], dy| {
        let gradients = graph.swiglu_back(dy, x[0], x[1]);
        vec![gradients.d_gate, gradients.d_up]
    };
    check("swiglu", &mut backend(), &[&[48, 5], &[48, 5]], &forward, &backward);
    // The result once more, which the way back gives as well.
    let again = |graph: &mut Graph, x: &[Tensor]| graph.swiglu_back(x[0], x[0], x[1]).hidden;
    check("swiglu again", &mut backend(), &[&[48, 5], &[48, 5]], &again, &backward);
}

#[test]
fn rotations() {
    let mut backend = backend();
    for mode in [RopeMode::Normal, RopeMode::Neox, RopeMode::Multi, RopeMode::Interleaved] {
        let rope = Rope { mode, n_rotated: 16, freq_base: 1e4, sections: [3, 3, 2, 0] };
        let factors: Vec<f32> = (1..=8).map(|pair| pair as f32).collect();
        let n = 5 * mode.positions_per_token();
        let stored =
            backend.allocate(&[(GgmlType::I32, &[n]), (GgmlType::I32, &[n]), (GgmlType::F32, &[8])]).expect("memory");
        let positions: Vec<i32> = (0..n as i32).map(|i| i * 3 % 17).collect();
        backend.write_i32(&stored[0], &positions);
        backend.write_i32(&stored[1], &positions.iter().map(|position| -position).collect::<Vec<_>>());
        backend.write(&stored[2], &factors);
        for has_factors in [false, true] {
            let factors = |graph: &mut Graph| has_factors.then(|| graph.leaf(&stored[2]));
            let forward = |graph: &mut Graph, x: &[Tensor]| {
                let (positions, factors) = (graph.leaf(&stored[0]), factors(graph));
                graph.rope(x[0], positions, factors, &rope)
            };
            let backward = |graph: &mut Graph, _: &[Tensor], dy| {
                let (negated, factors) = (graph.leaf(&stored[1]), factors(graph));
                vec![graph.rope(dy, negated, factors, &rope)]
            };
            check("rope", &mut backend, &[&[16, 2, 5]], &forward, &backward);
        }
    }
}

#[test]
fn linear_layers_with_adapters() {
    let mut backend = backend();
    let (n_in, n_out, rank, n_tokens) = (16, 20, 4, 7);
    let mut writer = GgufWriter::new();
    writer.declare("w", &[n_in as u64, n_out as u64], GgmlType::F32).expect("a shape");
    let mut stream = writer.start(Vec::new()).expect("memory");
    let values = random(31, n_in * n_out);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    stream.write_tensor("w", &bytes).expect("memory");
    let file = Arc::new(GgufFile::from_bytes(stream.finish().expect("complete")).expect("valid"));
    let weight = backend.weight(&file, "w").expect("there");
    let bias = backend.allocate(&[(GgmlType::F32, &[n_out])]).expect("memory").remove(0);
    backend.write(&bias, &random(32, n_out));
    let factors: [&[usize]; 2] = [&[n_in, rank], &[rank, n_out]];
    let shapes: [&[usize]; 2] = [&[n_in, rank], &[n_out, rank]];
    let mut gradients = backend.allocate(&shapes.map(|shape| (GgmlType::F32, shape))).expect("memory");
    let gradients = Factors { b: gradients.remove(1), a: gradients.remove(0) };

    let linear = Linear { name: "w".to_owned(), weight, bias: Some(bias) };
    let leaves = |x: &[Tensor]| AdapterLeaves { a: x[1], b: x[2], gradients: gradients.clone() };
    let forward = |graph: &mut Graph, x: &[Tensor]| {
        linear::forward(graph, &linear, Some(&leaves(x)), &mut Input::new(x[0]), None)
    };
    let backward = |graph: &mut Graph, x: &[Tensor], dy| {
        let leaves = leaves(x);
        let back = Back::new(graph, &linear, Some(&leaves), dy);
        back.adapter_gradients(graph, &mut Input::new(x[0]));
        let (a, b) = (graph.leaf(&gradients.a), graph.leaf(&gradients.b));
        vec![back.dx(graph), a, graph.transposed(b)]
    };
    check("linear", &mut backend, &[&[n_in, n_tokens], factors[0], factors[1]], &forward, &backward);
}

/// The memory of attention over a layout.
struct AttentionMemory {
    blocks: Vec<(Vec<Stored>, bool)>,
    frozen: Option<(Stored, Stored)>,
}

impl AttentionMemory {
    fn new(backend: &mut Backend, decoder: &Decoder, layout: &Layout) -> Self {
        let mut frozen = |key: u64| {
            let shape = [decoder.key_width(), layout.n_frozen];
            let stored = backend.allocate(&[(GgmlType::F32, &shape)]).expect("memory").remove(0);
            backend.write(&stored, &random(key, stored.n_elements()));
            stored
        };
        let frozen = (layout.n_frozen > 0).then(|| (frozen(60), frozen(61)));
        let block = |block: &Block| {
            let n = block.sequences.len();
            let shapes: [(GgmlType, &[usize]); 4] = [
                (GgmlType::I32, &[block.n_queries * n]),
                (GgmlType::I32, &[block.n_keys * n]),
                (GgmlType::F32, &[block.n_keys, block.n_queries]),
                (GgmlType::F32, &[1, block.n_queries * n]),
            ];
            let stored = backend.allocate(&shapes).expect("memory");
            backend.write_i32(&stored[0], &block.query_rows());
            backend.write_i32(&stored[1], &block.key_rows());
            backend.write(&stored[2], &block.mask());
            let existing = block.existing_queries();
            if let Some(existing) = &existing {
                backend.write(&stored[3], existing);
            }
            (stored, existing.is_some())
        };
        Self { blocks: layout.blocks.iter().map(block).collect(), frozen }
    }

    fn attention<'a>(&self, graph: &mut Graph, decoder: &'a Decoder, layout: &'a Layout) -> Attention<'a> {
        let mut leaves = |(stored, is_padded): &(Vec<Stored>, bool)| BlockLeaves {
            query_rows: graph.leaf(&stored[0]),
            key_rows: graph.leaf(&stored[1]),
            mask: graph.leaf(&stored[2]),
            existing: is_padded.then(|| graph.leaf(&stored[3])),
        };
        let blocks = self.blocks.iter().map(&mut leaves).collect();
        let frozen = self.frozen.as_ref().map(|(keys, values)| (graph.leaf(keys), graph.leaf(values)));
        Attention { decoder, layout, blocks, frozen }
    }
}

/// The runtime's own (no `max_scores`), and prompt and completions in one block each and in many; alone and behind frozen keys
/// and values.
#[test]
fn attention_of_our_own_and_by_blocks() {
    let decoder: Decoder = decoder();
    let (query, key) = (decoder.query_width(), decoder.key_width());
    for n_frozen in [0, 21] {
        let mut first: Option<Vec<Vec<f32>>> = None;
        for max_scores in [None, Some(1), Some(4000), Some(1 << 20)] {
            let mut backend = backend();
            let layout = Layout::new(n_frozen, 19, &[6, 1, 23, 9]);
            let layout = match max_scores {
                Some(max_scores) => layout.with_blocks(&decoder, max_scores),
                None => layout,
            };
            let memory = AttentionMemory::new(&mut backend, &decoder, &layout);
            let forward = |graph: &mut Graph, x: &[Tensor]| {
                let packed = Packed { q: x[0], k: x[1], v: x[2] };
                memory.attention(graph, &decoder, &layout).forward(graph, packed, &mut Tape::Compute).output
            };
            let backward = |graph: &mut Graph, x: &[Tensor], dy| {
                let packed = Packed { q: x[0], k: x[1], v: x[2] };
                let attention = memory.attention(graph, &decoder, &layout);
                let attended = attention.forward(graph, packed, &mut Tape::Compute);
                let Packed { q, k, v } = attention.backward(graph, packed, &attended, dy);
                vec![q, k, v]
            };
            let n = layout.n_tokens;
            let name = format!("attention with {n_frozen} frozen keys, {max_scores:?}");
            let results = check(&name, &mut backend, &[&[query, n], &[key, n], &[key, n]], &forward, &backward);
            let Some(expected) = &first else {
                first = Some(results);
                continue;
            };
            for (got, expected) in results.iter().flatten().zip(expected.iter().flatten()) {
                // F32 sums of a few dozen terms, up to a few.
                assert!((got - expected).abs() < 2e-5, "{name}: {got} for {expected}");
            }
        }
    }
}
