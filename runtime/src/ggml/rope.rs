//! Rotary position embedding (arXiv 2104.09864).

use llama_cpp_sys_2 as sys;

use super::graph::{Graph, Tensor};
use crate::gguf::GgmlType;

/// How positions rotate the elements of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeMode {
    /// Neighbouring elements form a pair (llama).
    Normal,
    /// Element `i` pairs with `i + n_rotated / 2` (Qwen 2 and 3).
    Neox,
    /// As `Neox`, with consecutive sections of frequencies for time, height and width (Qwen2-VL).
    Multi,
    /// As `Neox`, with the frequencies of time, height and width taking turns (Qwen3-VL).
    Interleaved,
}

impl RopeMode {
    /// Positions that each token has: time, height, width and one spare, or a single one.
    pub fn positions_per_token(self) -> usize {
        match self {
            Self::Normal | Self::Neox => 1,
            Self::Multi | Self::Interleaved => 4,
        }
    }

    /// ggml's number: `GGML_ROPE_TYPE_*` are macros that the bindings do not carry.
    fn id(self) -> i32 {
        match self {
            Self::Normal => 0,
            Self::Neox => 2,
            Self::Multi => 8,
            Self::Interleaved => 40,
        }
    }
}

/// Rotary position embedding (arXiv 2104.09864), without context extension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Which elements pair, and by which position they turn.
    pub mode: RopeMode,
    /// Leading elements of a head that are rotated; even.
    pub n_rotated: usize,
    /// Base of the geometric series of frequencies.
    pub freq_base: f32,
    /// Pairs that belong to time, height, width and the spare position; only for the multi-position modes.
    pub sections: [i32; 4],
}

impl Graph {
    /// Rotates the heads `a[head_dim, n_heads, n_tokens]` by `positions`: I32 `[n_tokens]`, or `[4 * n_tokens]` with all
    /// times first for the multi-position modes. Negated positions undo it. `frequency_factors`, F32 `[n_rotated / 2]`,
    /// divide the frequencies of the pairs.
    pub fn rope(&mut self, a: Tensor, positions: Tensor, frequency_factors: Option<Tensor>, rope: &Rope) -> Tensor {
        let (sa, sp) = (self.shape(a), self.shape(positions));
        self.check_f32_rows("rope", a);
        let n_positions = sa[2] * rope.mode.positions_per_token();
        assert!(
            self.dtype(positions) == GgmlType::I32 && sp == [n_positions, 1, 1, 1],
            "rope: positions {sp:?} for {sa:?}"
        );
        assert!(
            rope.n_rotated.is_multiple_of(2) && rope.n_rotated <= sa[0] && sa[0].is_multiple_of(2),
            "rope: {rope:?} of {sa:?}"
        );
        if let Some(factors) = frequency_factors {
            let sf = self.shape(factors);
            assert!(
                self.dtype(factors) == GgmlType::F32 && sf == [rope.n_rotated / 2, 1, 1, 1],
                "rope: frequency factors {sf:?} for {rope:?}"
            );
            self.check_contiguous("rope", factors);
        }
        self.check_room();
        let (a, positions) = (self.raw(a).as_ptr(), self.raw(positions).as_ptr());
        let (n_rotated, mode) = (rope.n_rotated as i32, rope.mode.id());
        let mut sections = rope.sections;
        let frequency_factors = frequency_factors.map_or(std::ptr::null_mut(), |factors| self.raw(factors).as_ptr());
        // SAFETY: the context has room, and the operands are as checked; `sections` is read during the call only. The
        // numbers after the base switch context extension off.
        let result = unsafe {
            if rope.mode.positions_per_token() == 1 {
                let context = self.context();
                sys::ggml_rope_ext(
                    context,
                    a,
                    positions,
                    frequency_factors,
                    n_rotated,
                    mode,
                    0,
                    rope.freq_base,
                    1.0,
                    0.0,
                    1.0,
                    0.0,
                    0.0,
                )
            } else {
                let used = &sections[..3];
                assert!(used.iter().any(|&n| n > 0) && sections.iter().all(|&n| n >= 0), "rope: sections {sections:?}");
                assert!(sections.iter().sum::<i32>() as usize <= sa[0], "rope: sections {sections:?} of {sa:?}");
                let (context, sections) = (self.context(), sections.as_mut_ptr());
                sys::ggml_rope_multi(
                    context,
                    a,
                    positions,
                    frequency_factors,
                    n_rotated,
                    sections,
                    mode,
                    0,
                    rope.freq_base,
                    1.0,
                    0.0,
                    1.0,
                    0.0,
                    0.0,
                )
            }
        };
        self.push(result)
    }
}
