//! Groups that do not fit the memory as a whole, in parts of [`EngineOptions::max_completions`](super::EngineOptions).
//!
//! The loss may couple the completions (through its averages, or a penalty over all), so all of them are scored before the
//! first slope is asked for. What remains is a sum over completions, which parts add up.

use owlet_runtime::Result;

use super::{Engine, GroupInput, TokenScores, TokenSlopes, check_slopes};
use crate::{
    lora::{LoraGrads, LoraWeights},
    pace::Pace,
};

impl Engine {
    /// Completions of a part.
    pub(super) fn max_part(&self) -> usize {
        self.options.max_completions.max(1)
    }

    /// As [`Engine::gradient_paced`].
    pub(super) async fn gradient_in_parts<S: Into<TokenSlopes>>(
        &mut self,
        lora: &LoraWeights,
        group: &GroupInput<'_>,
        temperature: f32,
        mut slopes: impl FnMut(&[TokenScores]) -> Vec<S>,
        gradients: &mut LoraGrads,
        pace: &Pace,
    ) -> Result<Vec<TokenScores>> {
        let scores = self.score_paced(Some(lora), group, temperature, pace).await?;
        let slopes: Vec<TokenSlopes> = slopes(&scores).into_iter().map(Into::into).collect();
        check_slopes(&scores, &slopes)?;
        let n = self.max_part();
        for (completions, slopes) in group.completions.chunks(n).zip(slopes.chunks(n)) {
            let part = GroupInput { completions, ..*group };
            self.gradient_part(lora, &part, temperature, |_: &[TokenScores]| slopes.to_vec(), gradients, pace).await?;
        }
        Ok(scores)
    }
}
