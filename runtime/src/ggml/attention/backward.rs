//! The backward pass, for queries and for keys and values.

use std::ffi::{c_int, c_void};

use llama_cpp_sys_2 as sys;

use super::{
    super::product::{Left, ROWS},
    Work,
    panel::{Output, Panel, Strips, Sums, batch, numbers},
    tasks::{batches, key_panels, query_panels},
};
use crate::exponential::exp;

/// The callback of the custom operation that computes the gradient of the queries and, behind it, what
/// the softmax subtracts: for every query and head the output times its gradient. Operands are queries, gradient of the
/// output, result of [`super::forward::attend`], keys and values packed by vectors, keys packed by elements; the user data is
/// [`Work`].
pub(super) unsafe extern "C" fn queries(dst: *mut sys::ggml_tensor, _: c_int, n_threads: c_int, work: *mut c_void) {
    // SAFETY: ggml passes the tensor of a running operation, whose operands and user data `Graph::attention_back` has set and
    // checked; nobody changes them meanwhile.
    let (output, work, [head_dim, n_head, n_tokens, _], n_head_kv, plain, packed) = unsafe {
        let [q, d_output, attended, keys, values, elements, ..] = (*dst).src;
        let (shape, n_head_kv) = ((*q).ne.map(|n| n as usize), (*keys).ne[2] as usize);
        let work = &*work.cast::<Work>();
        let plain = [q, d_output, attended].map(|tensor| numbers(tensor));
        let packed = [keys, values, elements].map(|tensor| Strips::new(tensor));
        (Output::new(dst), work, shape, n_head_kv, plain, packed)
    };
    let ([q, d_output, attended], [keys, values, elements]) = (plain, packed);
    let (means, log_sums) = attended.split_at(head_dim * n_head * n_tokens);
    let (mut q_panel, mut d_panel) = (Panel::new(head_dim), Panel::new(head_dim));
    let (mut d_q, mut p, mut ds) = (Sums::new(head_dim), batch(), batch());
    let panels = query_panels(&work.branches, n_head, n_head_kv);
    for panel in work.take(&panels, n_threads as usize) {
        let row = |(token, head): (usize, usize)| token * n_head + head;
        q_panel.fill(panel.lanes.iter().map(|&lane| vector(q, row(lane), head_dim)));
        d_panel.fill(panel.lanes.iter().map(|&lane| vector(d_output, row(lane), head_dim)));
        let (mut log_sum, mut own) = ([0.0; ROWS], [0.0; ROWS]);
        for (index, &lane) in panel.lanes.iter().enumerate() {
            log_sum[index] = log_sums[row(lane)];
            own[index] = dot(vector(means, row(lane), head_dim), vector(d_output, row(lane), head_dim));
        }
        d_q.clear();
        let mut n_seen = 0;
        for keys_of_batch in panel.keys.iter().cloned().flat_map(batches) {
            let (p, ds) = (&mut p[..keys_of_batch.len()], &mut ds[..keys_of_batch.len()]);
            q_panel.products(&keys, panel.head, keys_of_batch.clone(), p);
            d_panel.products(&values, panel.head, keys_of_batch.clone(), ds);
            panel.hide(p, n_seen);
            n_seen += p.len();
            for (p, ds) in p.iter_mut().zip(&mut *ds) {
                differentiate(p, ds, &log_sum, &own);
            }
            d_q.add(ds, &elements, panel.head, keys_of_batch);
        }
        // SAFETY: no other task has these tokens and heads.
        unsafe {
            d_q.write(panel.lanes.len(), |lane, first, values| {
                output.write(row(panel.lanes[lane]) * head_dim + first, values);
            });
            for (&lane, &own) in panel.lanes.iter().zip(&own) {
                output.write(head_dim * n_head * n_tokens + row(lane), &[own]);
            }
        }
    }
}

/// The callback of the custom operation that computes the gradients of keys and values, one behind the other. Operands are keys,
/// values, result of [`super::forward::attend`], result of [`queries`], queries and gradient of the output packed by vectors,
/// the same packed by elements; the user data is [`Work`].
pub(super) unsafe extern "C" fn keys(dst: *mut sys::ggml_tensor, _: c_int, n_threads: c_int, work: *mut c_void) {
    // SAFETY: as in `queries`.
    let (output, work, [head_dim, n_head_kv, n_tokens, _], n_head, plain, packed) = unsafe {
        let [k, v, attended, d_q, packed @ .., _, _] = (*dst).src;
        let (shape, n_head) = ((*dst).ne.map(|n| n as usize), (*packed[0]).ne[2] as usize);
        let work = &*work.cast::<Work>();
        let plain = [k, v, attended, d_q].map(|tensor| numbers(tensor));
        (Output::new(dst), work, shape, n_head, plain, packed.map(|tensor| Strips::new(tensor)))
    };
    let ([k, v, attended, d_q], [q_vectors, d_vectors, q_elements, d_elements]) = (plain, packed);
    let (log_sums, own) = (&attended[head_dim * n_head * n_tokens..], &d_q[head_dim * n_head * n_tokens..]);
    let n_sharing = n_head / n_head_kv;
    let (mut k_panel, mut v_panel) = (Panel::new(head_dim), Panel::new(head_dim));
    let (mut d_k, mut d_v, mut p, mut ds) = (Sums::new(head_dim), Sums::new(head_dim), batch(), batch());
    let panels = key_panels(&work.branches, n_head_kv);
    for panel in work.take(&panels, n_threads as usize) {
        let row = |token: usize| token * n_head_kv + panel.head;
        let rows = || panel.tokens.clone().map(|token| row(work.branches.n_frozen + token));
        k_panel.fill(rows().map(|row| vector(k, row, head_dim)));
        v_panel.fill(rows().map(|row| vector(v, row, head_dim)));
        d_k.clear();
        d_v.clear();
        for head in panel.head * n_sharing..(panel.head + 1) * n_sharing {
            for tokens in batches(panel.queries.clone()) {
                let (p, ds) = (&mut p[..tokens.len()], &mut ds[..tokens.len()]);
                k_panel.products(&q_vectors, head, tokens.clone(), p);
                v_panel.products(&d_vectors, head, tokens.clone(), ds);
                for ((p, ds), token) in p.iter_mut().zip(&mut *ds).zip(tokens.clone()) {
                    // Keys behind the query.
                    for (score, key) in p.iter_mut().zip(panel.tokens.clone()).skip(token + 1 - panel.tokens.start) {
                        debug_assert!(key > token);
                        *score = f32::NEG_INFINITY;
                    }
                    let row = token * n_head + head;
                    differentiate(p, ds, &[log_sums[row]; ROWS], &[own[row]; ROWS]);
                }
                d_v.add(p, &d_elements, head, tokens.clone());
                d_k.add(ds, &q_elements, head, tokens);
            }
        }
        for (part, sums) in [&d_k, &d_v].into_iter().enumerate() {
            sums.write(panel.tokens.len(), |lane, first, values| {
                let row = row(part * n_tokens + panel.tokens.start + lane);
                // SAFETY: no other task has these tokens of this head.
                unsafe { output.write(row * head_dim + first, values) };
            });
        }
    }
}

/// Of scores `p` and gradients `ds` of their probabilities: the probabilities, and the gradients of the scores.
#[inline(always)]
fn differentiate(p: &mut Left, ds: &mut Left, log_sum: &Left, own: &Left) {
    for lane in 0..ROWS {
        p[lane] = exp(p[lane] - log_sum[lane]);
        ds[lane] = p[lane] * (ds[lane] - own[lane]);
    }
}

/// Vector `row` of contiguous ones.
fn vector(x: &[f32], row: usize, head_dim: usize) -> &[f32] {
    &x[row * head_dim..][..head_dim]
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
