use std::sync::Arc;

use super::*;
use crate::{ggml::Backend, rng::Rng};

struct Case {
    head_dim: usize,
    n_head: usize,
    n_head_kv: usize,
    branches: Branches,
}

fn case(head_dim: usize, heads: (usize, usize), n_frozen: usize, n_common: usize, lengths: &[usize]) -> Case {
    let branches = Branches { n_frozen, n_common, lengths: lengths.to_vec() };
    Case { head_dim, n_head: heads.0, n_head_kv: heads.1, branches }
}

fn random(key: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::keyed(&[key, 5]);
    (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect()
}

/// Output and gradients of q, k, v, in this order.
type Results = [Vec<f32>; 4];

impl Case {
    fn sizes(&self) -> [usize; 2] {
        let (n, n_keys) = (self.branches.n_tokens(), self.branches.n_frozen + self.branches.n_tokens());
        [self.head_dim * self.n_head * n, self.head_dim * self.n_head_kv * n_keys]
    }

    /// Queries, keys, values, gradient of the output.
    fn inputs(&self) -> [Vec<f32>; 4] {
        let [n_q, n_k] = self.sizes();
        [random(1, n_q), random(2, n_k), random(3, n_k), random(4, n_q)]
    }

    /// The keys that token `token` sees.
    fn visible(&self, token: usize) -> Vec<usize> {
        let Branches { n_frozen, n_common, lengths } = &self.branches;
        let mut start = *n_common;
        for length in lengths {
            if (start..start + length).contains(&token) {
                return (0..n_frozen + n_common).chain(n_frozen + start..=n_frozen + token).collect();
            }
            start += length;
        }
        (0..=n_frozen + token).collect()
    }

    /// The definition, in f64.
    fn expected(&self) -> Results {
        let Self { head_dim, n_head, n_head_kv, .. } = *self;
        let [q, k, v, d_o] = self.inputs().map(|x| x.into_iter().map(f64::from).collect::<Vec<_>>());
        let [mut o, mut dq, mut dk, mut dv] = [q.len(), q.len(), k.len(), v.len()].map(|n| vec![0.0; n]);
        for (token, head) in (0..self.branches.n_tokens()).flat_map(|token| (0..n_head).map(move |head| (token, head)))
        {
            let row = (token * n_head + head) * head_dim;
            let key_row = |key: usize| (key * n_head_kv + head * n_head_kv / n_head) * head_dim;
            let dot = |a: &[f64], at: usize, b: &[f64], bt: usize| -> f64 {
                (0..head_dim).map(|i| a[at + i] * b[bt + i]).sum()
            };
            let keys = self.visible(token);
            let weights: Vec<f64> = keys.iter().map(|&key| dot(&q, row, &k, key_row(key)).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let p: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
            let dp: Vec<f64> = keys.iter().map(|&key| dot(&d_o, row, &v, key_row(key))).collect();
            let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for ((&key, p), dp) in keys.iter().zip(p).zip(dp) {
                let (ds, key) = (p * (dp - mean), key_row(key));
                for i in 0..head_dim {
                    o[row + i] += p * v[key + i];
                    dv[key + i] += p * d_o[row + i];
                    dq[row + i] += ds * k[key + i];
                    dk[key + i] += ds * q[row + i];
                }
            }
        }
        let frozen = self.branches.n_frozen * n_head_kv * head_dim;
        [o, dq, dk.split_off(frozen), dv.split_off(frozen)].map(|x| x.into_iter().map(|x| x as f32).collect())
    }

    fn computed(&self, n_threads: usize, inputs: &[Vec<f32>; 4]) -> Results {
        let mut backend = Backend::cpu(n_threads).expect("a processor");
        let mut graph = backend.graph(64);
        let n_keys = self.branches.n_frozen + self.branches.n_tokens();
        let queries = [self.head_dim, self.n_head, self.branches.n_tokens()];
        let keys = [self.head_dim, self.n_head_kv, n_keys];
        let mut leaf = |values: &Vec<f32>, shape: &[usize]| {
            let stored = backend.allocate(&[(GgmlType::F32, shape)]).expect("memory").remove(0);
            backend.write(&stored, values);
            graph.leaf(&stored)
        };
        let [q, k, v, d_o] = inputs;
        let (q, k, v, d_o) = (leaf(q, &queries), leaf(k, &keys), leaf(v, &keys), leaf(d_o, &queries));
        let branches = Arc::new(self.branches.clone());
        let attended = graph.attention(q, k, v, &branches);
        let output = graph.attention_output(attended, self.head_dim, self.n_head);
        let gradients = graph.attention_back([q, k, v], attended, d_o, &branches);
        let results = [output, gradients.q, gradients.k, gradients.v].map(|result| {
            let stored = backend.allocate(&[(GgmlType::F32, &graph.shape(result))]).expect("memory").remove(0);
            let place = graph.leaf(&stored);
            graph.copy(result, place);
            stored
        });
        backend.run(graph).expect("runs");
        results.map(|stored| backend.read_all(&stored))
    }
}

fn cases() -> Vec<Case> {
    vec![
        case(64, (1, 1), 0, 1, &[]),
        case(64, (3, 1), 0, 33, &[]),
        case(64, (6, 2), 0, 40, &[1, 17, 0, 50]),
        case(64, (3, 3), 37, 3, &[31, 2]),
        case(16, (4, 2), 0, 130, &[20, 7]),
        case(32, (2, 1), 101, 5, &[12, 12, 13]),
        case(80, (2, 2), 1, 25, &[35]),
        case(96, (4, 1), 12, 11, &[9, 1, 1]),
        case(128, (2, 1), 0, 220, &[5, 40]),
        // More than elements of a vector register, and not a multiple of any.
        case(22, (9, 3), 7, 19, &[6, 23]),
    ]
}

#[test]
fn attention_and_its_gradient_are_those_of_the_definition() {
    for case in cases() {
        let expected = case.expected();
        for n_threads in [1, 3] {
            let computed = case.computed(n_threads, &case.inputs());
            for ((name, got), expected) in ["output", "dq", "dk", "dv"].iter().zip(&computed).zip(&expected) {
                assert_eq!(got.len(), expected.len(), "{name}");
                // Sums of up to a few hundred terms about 1; scores are up to 10, rounded in their 7th digit.
                let largest = expected.iter().fold(1.0f32, |largest, x| largest.max(x.abs()));
                for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let Case { head_dim, n_head, n_head_kv, branches } = &case;
                    assert!(
                        (got - expected).abs() < 1e-5 * largest,
                        "{name} {index}: {got} for {expected} ({head_dim}, {n_head}, {n_head_kv}, {branches:?})"
                    );
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for case in cases() {
        assert!(case.computed(1, &case.inputs()) == case.computed(3, &case.inputs()), "{:?}", case.branches);
    }
}

#[test]
fn large_scores_neither_overflow_nor_hide_what_is_no_number() {
    let case = case(64, (3, 1), 0, 150, &[40]);
    let mut inputs = case.inputs();
    inputs[0].iter_mut().for_each(|x| *x *= 300.0);
    assert!(case.computed(1, &inputs).iter().flatten().all(|x| x.is_finite()));
    // The last key of the beginning: unseen by the queries before it.
    inputs[1][149 * 64 + 3] = f32::NAN;
    let [output, ..] = case.computed(1, &inputs);
    let is_finite = |token: usize| output[token * 192..(token + 1) * 192].iter().all(|x| x.is_finite());
    assert!((0..149).all(is_finite));
    assert!(!(149..190).any(is_finite));
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let branches = Arc::new(Branches { n_frozen: 2, n_common: 3, lengths: vec![4] });
    let shapes: [[&[usize]; 3]; 5] = [
        [&[8, 4, 8], &[8, 2, 9], &[8, 2, 9]],
        [&[8, 4, 7], &[8, 2, 8], &[8, 2, 9]],
        [&[8, 4, 7], &[8, 3, 9], &[8, 3, 9]],
        [&[8, 4, 7], &[4, 2, 9], &[4, 2, 9]],
        [&[8, 4, 7], &[8, 2, 9], &[8, 1, 9]],
    ];
    for shapes in shapes {
        let refused = std::panic::catch_unwind(|| {
            let mut graph = Backend::cpu(1).expect("a processor").graph(16);
            let [q, k, v] = shapes.map(|shape| graph.scratch(shape));
            graph.attention(q, k, v, &branches);
        });
        assert!(refused.is_err(), "{shapes:?}");
    }
}
