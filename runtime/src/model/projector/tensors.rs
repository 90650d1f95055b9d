//! The tensors of an image projector: all that its graph needs, and no others, since llama.cpp takes up by name whatever
//! it knows from any family (a class embedding, a gate, a norm) and then computes something else, or ends the process.

use super::{Kind, Tower, wrong};
use crate::{
    Error, ErrorKind, Result,
    gguf::{GgmlType, GgufFile},
    model::check::Checked,
};

impl Tower {
    /// Checks all tensors and returns the number of deepstack mergers. `n_text` is the language model's width.
    ///
    /// # Errors
    /// `InvalidFile` for a missing tensor, `Mismatch` for a wrong shape or another model's width, `Unsupported` for a
    /// type that is not computed with and for a tensor that does not belong here.
    pub(super) fn check_tensors(&self, file: &GgufFile, n_text: u64) -> Result<u64> {
        let n = self.n_embd;
        let merged = n * self.merge * self.merge;
        let mut checked = Checked::new(file);
        let kernel = [self.patch, self.patch, 3, n];
        for name in ["v.patch_embd.weight", "v.patch_embd.weight.1"] {
            // The kernel is the second factor of a product, where ggml takes plain floats alone.
            checked.typed(name, &kernel, &[GgmlType::F32, GgmlType::F16, GgmlType::BF16])?;
        }
        for layer in 0..self.n_layer {
            self.check_block(layer, &mut checked)?;
        }
        checked.vector("v.post_ln.weight", n)?;
        linear(&mut checked, "mm.0", merged, merged)?;
        let width = file.tensor("mm.2.bias").map_or(0, |bias| bias.shape[0]);
        if width != n_text {
            let error = Error::new(ErrorKind::Mismatch, "image projector is for another model").at("mm.2.bias");
            return Err(error.got(format!("width {width}")).needed(format!("{n_text}, the model's embedding width")));
        }
        linear(&mut checked, "mm.2", merged, n_text)?;
        let mut n_deepstack = 0;
        if self.kind == Kind::Qwen2 {
            checked.optional_vector("v.post_ln.bias", n)?;
        }
        if self.kind == Kind::Qwen3 {
            checked.vector("v.post_ln.bias", n)?;
            checked.vector("v.patch_embd.bias", n)?;
            self.check_positions(&mut checked)?;
            for layer in 0..self.n_layer {
                let name = |part: &str| format!("v.deepstack.{layer}.{part}");
                if file.tensor(&name("fc1.weight")).is_some() {
                    n_deepstack += 1;
                    checked.vector(&name("norm.weight"), merged)?;
                    checked.vector(&name("norm.bias"), merged)?;
                    linear(&mut checked, &name("fc1"), merged, merged)?;
                    linear(&mut checked, &name("fc2"), merged, n_text)?;
                }
            }
        }
        checked.refuse_others()?;
        Ok(n_deepstack)
    }

    fn check_block(&self, layer: u64, checked: &mut Checked) -> Result<()> {
        let n = self.n_embd;
        let name = |part: &str| format!("v.blk.{layer}.{part}");
        for norm in ["ln1", "ln2"] {
            checked.vector(&name(&format!("{norm}.weight")), n)?;
            if self.kind != Kind::Qwen25 {
                checked.vector(&name(&format!("{norm}.bias")), n)?;
            }
        }
        let mut linears = vec![("attn_out", n, n), ("ffn_up", n, self.n_ff), ("ffn_down", self.n_ff, n)];
        match self.kind {
            Kind::Qwen3 => linears.push(("attn_qkv", n, 3 * n)),
            _ => linears.extend([("attn_q", n, n), ("attn_k", n, n), ("attn_v", n, n)]),
        }
        if self.kind == Kind::Qwen25 {
            linears.push(("ffn_gate", n, self.n_ff));
        }
        linears.into_iter().try_for_each(|(part, n_in, n_out)| linear(checked, &name(part), n_in, n_out))
    }

    /// Learned positions lie on a square grid, which is interpolated.
    fn check_positions(&self, checked: &mut Checked) -> Result<()> {
        let name = "v.position_embd.weight";
        let rows = checked.file().tensor(name).map_or(0, |tensor| tensor.n_rows());
        checked.typed(name, &[self.n_embd, rows.max(1)], &[GgmlType::F32])?;
        if rows.isqrt().pow(2) != rows {
            return Err(wrong(name, format!("{rows} positions"), "a square number"));
        }
        Ok(())
    }
}

fn linear(checked: &mut Checked, name: &str, n_in: u64, n_out: u64) -> Result<()> {
    checked.matrix(&format!("{name}.weight"), [n_in, n_out])?;
    checked.vector(&format!("{name}.bias"), n_out)
}
