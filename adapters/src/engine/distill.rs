//! Distillation: how far a student is from a teacher over the same completions, and the way towards it.
//!
//! Both are engines over files of their own with the same vocabulary, such as a model quantized hard and the one that it
//! was made from. Their logits exist side by side for a chunk of the vocabulary: tokens times vocabulary never does.
//! The loss is the forward divergence `KL(t || s) = sum p_t (log p_t - log p_s)` of every token (Hinton et al., arXiv
//! 1503.02531, section 2), and dKL/dz_s = (p_s - p_t) / temperature. Exact, no sampling of the vocabulary.

use std::ops::Range;

use owlet_runtime::{EncodedPrompt, Error, ErrorKind, Result};

use super::{
    Engine, GroupInput, check_gradients, check_group, check_values, gradient_scale,
    head::Head,
    n_tokens, parallel,
    pass::Pass,
    softmax::{PairStatistics, divergence_gradient},
    workspace::Keep,
};
use crate::{
    lora::{LoraGrads, LoraMode, LoraWeights},
    pace::{Pace, complete},
};

/// Who is right.
#[derive(Debug)]
pub struct Teacher<'a> {
    /// A model with the student's vocabulary.
    pub engine: &'a mut Engine,
    /// The prompt of the group as the teacher takes it: of the same text, with its own embeddings of the pictures.
    pub prompt: &'a EncodedPrompt,
}

/// How a student differs from its teacher at every token of one completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenDivergences {
    /// `KL(teacher || student)` of the distributions that the token was drawn from, in nats.
    pub kl: Vec<f32>,
    /// Whether both find the same token most probable.
    pub agrees: Vec<bool>,
}

impl Engine {
    /// Divergences of every completion token from `teacher` at `temperature`, with the adapter or, for `None`, of the base
    /// alone.
    ///
    /// # Errors
    /// As [`Engine::score`], for both; [`ErrorKind::Mismatch`] if the vocabularies differ in size.
    pub fn divergence(
        &mut self,
        lora: Option<&LoraWeights>,
        group: &GroupInput,
        temperature: f32,
        teacher: Teacher<'_>,
    ) -> Result<Vec<TokenDivergences>> {
        complete(self.divergence_paced(lora, group, temperature, teacher, &Pace::default()))
    }

    /// As [`Engine::divergence`], resting at the points of `pace`.
    pub(crate) async fn divergence_paced(
        &mut self,
        lora: Option<&LoraWeights>,
        group: &GroupInput<'_>,
        temperature: f32,
        teacher: Teacher<'_>,
        pace: &Pace,
    ) -> Result<Vec<TokenDivergences>> {
        check_vocabulary(self, &teacher)?;
        check_group(group, temperature)?;
        let mode = lora.map_or(&LoraMode::Full, |lora| &lora.config.mode);
        let frozen = self.frozen(mode, group, pace).await?;
        let layout = self.layout(group, n_tokens(&frozen));
        let teacher_group = GroupInput { prompt: teacher.prompt, ..*group };
        check_group(&teacher_group, temperature)?;
        let teacher_layout = teacher.engine.layout(&teacher_group, 0);
        let student = Pass::new(self, lora, group, &layout, frozen.as_deref(), Keep::Nothing)?;
        let teacher = Pass::new(teacher.engine, None, &teacher_group, &teacher_layout, None, Keep::Nothing)?;
        let mut pair = Pair::new((student, group), (teacher, &teacher_group), temperature, pace).await?;
        pair.compare(pace).await?;
        Ok(pair.divergences())
    }

    /// Adds the gradient of a loss over the divergences from `teacher` to `gradients`.
    ///
    /// `slopes` gets the divergences of every completion, as [`Engine::divergence`] returns them, and answers with dLoss/dKL
    /// of every token in the same shape. Returns the divergences.
    ///
    /// # Errors
    /// As [`Engine::divergence`] and [`Engine::gradient`]. `gradients` is then unchanged.
    pub fn distill(
        &mut self,
        lora: &LoraWeights,
        group: &GroupInput,
        temperature: f32,
        teacher: Teacher<'_>,
        slopes: &mut dyn FnMut(&[TokenDivergences]) -> Vec<Vec<f32>>,
        gradients: &mut LoraGrads,
    ) -> Result<Vec<TokenDivergences>> {
        complete(self.distill_paced(lora, group, temperature, teacher, slopes, gradients, &Pace::default()))
    }

    /// As [`Engine::distill`], resting at the points of `pace`. Work that ends early leaves part of the sum in `gradients`.
    #[expect(clippy::too_many_arguments, reason = "those of `distill` and the pace")]
    pub(crate) async fn distill_paced(
        &mut self,
        lora: &LoraWeights,
        group: &GroupInput<'_>,
        temperature: f32,
        teacher: Teacher<'_>,
        slopes: &mut dyn FnMut(&[TokenDivergences]) -> Vec<Vec<f32>>,
        gradients: &mut LoraGrads,
        pace: &Pace,
    ) -> Result<Vec<TokenDivergences>> {
        check_gradients(lora, gradients)?;
        check_vocabulary(self, &teacher)?;
        check_group(group, temperature)?;
        let frozen = self.frozen(&lora.config.mode, group, pace).await?;
        let layout = self.layout(group, n_tokens(&frozen));
        let teacher_group = GroupInput { prompt: teacher.prompt, ..*group };
        check_group(&teacher_group, temperature)?;
        let teacher_layout = teacher.engine.layout(&teacher_group, 0);
        let student = self.gradient_pass(lora, group, &layout, frozen.as_deref())?;
        let teacher = Pass::new(teacher.engine, None, &teacher_group, &teacher_layout, None, Keep::Nothing)?;
        let mut pair = Pair::new((student, group), (teacher, &teacher_group), temperature, pace).await?;
        pair.compare(pace).await?;
        let divergences = pair.divergences();

        let slopes = slopes(&divergences);
        let lengths: Vec<_> = group.completions.iter().map(|tokens| tokens.len()).collect();
        check_values(&lengths, &slopes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        if slopes.iter().flatten().any(|&slope| slope != 0.0) {
            let scale = gradient_scale(slopes.iter().flatten());
            pair.backward(&slopes, scale, pace).await?;
            pair.student.pass.backward(gradients, 1.0 / scale, pace).await?;
        }
        Ok(divergences)
    }
}

/// A token must mean the same to both; that is up to the caller, but numbers of tokens can be compared here.
fn check_vocabulary(student: &Engine, teacher: &Teacher<'_>) -> Result<()> {
    let (got, needed) = (teacher.engine.n_vocab(), student.n_vocab());
    if got == needed {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Mismatch, "the teacher has another vocabulary");
    Err(error.got(format!("{got} tokens")).needed(needed))
}

/// Student and teacher behind their last layers, over the same rows.
struct Pair<'a> {
    student: Side<'a>,
    teacher: Side<'a>,
    inverse_temperature: f32,
    rows: Vec<PairStatistics>,
}

struct Side<'a> {
    pass: Pass<'a>,
    head: Head<'a>,
}

impl<'a> Side<'a> {
    async fn new(mut pass: Pass<'a>, group: &GroupInput<'_>, temperature: f32, pace: &Pace) -> Result<Self> {
        pass.forward(pace).await?;
        let mut head = pass.head(group, temperature)?;
        let hidden = pass.last_hidden();
        head.vocabulary.normalise(pass.backend, &hidden)?;
        Ok(Self { pass, head })
    }

    fn logits<T>(&mut self, chunk: &Range<usize>, see: impl FnOnce(&[f32]) -> T) -> Result<T> {
        self.head.vocabulary.logits(self.pass.backend, chunk, see)
    }
}

impl<'a> Pair<'a> {
    /// Runs both through their layers.
    async fn new(
        (mut student, group): (Pass<'a>, &GroupInput<'_>),
        (mut teacher, teacher_group): (Pass<'a>, &GroupInput<'_>),
        temperature: f32,
        pace: &Pace,
    ) -> Result<Self> {
        // The same chunks for both.
        let max_logits = student.max_logits.min(teacher.max_logits);
        (student.max_logits, teacher.max_logits) = (max_logits, max_logits);
        // What neither would sample is a part of what they say all the same.
        (student.left_out, teacher.left_out) = (&[], &[]);
        let student = Side::new(student, group, temperature, pace).await?;
        let teacher = Side::new(teacher, teacher_group, temperature, pace).await?;
        let rows = vec![PairStatistics::EMPTY; student.head.vocabulary.n_rows()];
        Ok(Self { student, teacher, inverse_temperature: 1.0 / temperature, rows })
    }

    /// Goes through the vocabulary for the statistics of every row.
    async fn compare(&mut self, pace: &Pace) -> Result<()> {
        for chunk in self.student.head.vocabulary.chunks() {
            pace.point().await?;
            let Self { student, teacher, inverse_temperature, rows } = self;
            let n_threads = student.pass.backend.n_threads();
            student.logits(&chunk, |student| {
                teacher.logits(&chunk, |teacher| {
                    let logits = student.chunks_exact(chunk.len()).zip(teacher.chunks_exact(chunk.len()));
                    let rows = rows.iter_mut().zip(logits).collect();
                    parallel::for_each(n_threads, rows, |(row, (student, teacher)): (&mut PairStatistics, _)| {
                        row.update(chunk.start, student, teacher, *inverse_temperature);
                    });
                })
            })??;
        }
        Ok(())
    }

    fn divergences(&self) -> Vec<TokenDivergences> {
        let by_token = self.student.head.by_token(&self.rows);
        let of = |rows: Vec<PairStatistics>| TokenDivergences {
            kl: rows.iter().map(PairStatistics::divergence).collect(),
            agrees: rows.iter().map(PairStatistics::agrees).collect(),
        };
        by_token.into_iter().map(of).collect()
    }

    /// Computes the gradient of the student's last hidden states for `slopes`, multiplied by `scale`. Must follow
    /// [`Pair::compare`].
    async fn backward(&mut self, slopes: &[Vec<f32>], scale: f32, pace: &Pace) -> Result<()> {
        let inverse_temperature = self.inverse_temperature;
        let weights = self.student.head.row_sums(slopes.iter().map(Vec::as_slice), scale * inverse_temperature);
        for chunk in self.student.head.vocabulary.chunks() {
            pace.point().await?;
            let Self { student: Side { pass, head }, teacher, rows, .. } = self;
            let n_threads = pass.backend.n_threads();
            head.vocabulary.add_gradient(pass.backend, &chunk, |student| {
                teacher.logits(&chunk, |teacher| {
                    let logits = student.chunks_exact_mut(chunk.len()).zip(teacher.chunks_exact(chunk.len()));
                    let rows = rows.iter().zip(&weights).zip(logits).collect();
                    parallel::for_each(n_threads, rows, |((row, &weight), (student, teacher))| {
                        let log_sums = (row.student.log_sum(), row.teacher.log_sum());
                        divergence_gradient(student, teacher, inverse_temperature, log_sums, weight);
                    });
                })
            })?;
        }
        let Side { pass, head } = &mut self.student;
        let (hidden, gradient) = (pass.last_hidden(), pass.last_gradient());
        head.vocabulary.finish_gradient(pass.backend, &hidden, &gradient)
    }
}
