//! Log-softmax over a vocabulary that is seen in chunks, and its gradient, on the host.

use owlet_runtime::exponential::exp;

/// The logit of an entry that is left out: its probability is 0, and so is its share of every sum. Not infinite, for which
/// `p log p` would be no number; nothing that a model says comes near it.
pub(super) const LEFT_OUT: f32 = -1e20;

/// Statistics of one row of logits, updated chunk by chunk: with `z = logit / temperature` and `m = max z`,
/// the sums of `exp(z - m)` and `z exp(z - m)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowStatistics {
    max: f32,
    sum: f64,
    weighted_sum: f64,
}

impl RowStatistics {
    pub(super) const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0, weighted_sum: 0.0 };

    /// Takes in the next logits, which are divided by the temperature.
    pub(super) fn update(&mut self, logits: &[f32], inverse_temperature: f32) {
        let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(logit)) * inverse_temperature;
        if max > self.max {
            let shrink = f64::from(self.max - max).exp();
            self.sum *= shrink;
            self.weighted_sum *= shrink;
            self.max = max;
        }
        let mut sums = [0.0f32; LANES];
        let mut weighted_sums = [0.0f32; LANES];
        let mut add = |lane: usize, logit: f32| {
            let z = logit * inverse_temperature;
            let e = exp(z - self.max);
            sums[lane] += e;
            weighted_sums[lane] += z * e;
        };
        let (chunks, rest) = logits.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &logit) in chunk.iter().enumerate() {
                add(lane, logit);
            }
        }
        for (lane, &logit) in rest.iter().enumerate() {
            add(lane, logit);
        }
        self.sum += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        self.weighted_sum += weighted_sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }

    /// `log sum exp z`.
    pub(super) fn log_sum(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }

    /// Entropy `-sum p log p` in nats.
    pub(super) fn entropy(&self) -> f32 {
        (self.log_sum() - self.weighted_sum / self.sum).max(0.0) as f32
    }
}

/// Turns logits into gradients: `-weight p_i - entropy_weight p_i (log p_i + H)` with `p_i = exp(logit_i / temperature -
/// log_sum)` and H their entropy. The first term is that of `weight * log p` of another entry, the second that of
/// `entropy_weight * H`.
pub(super) fn softmax_gradient(
    values: &mut [f32],
    inverse_temperature: f32,
    (log_sum, entropy): (f64, f32),
    weight: f32,
    entropy_weight: f32,
) {
    let log_sum = log_sum as f32;
    for value in values {
        let logprob = *value * inverse_temperature - log_sum;
        *value = -exp(logprob) * (weight + entropy_weight * (logprob + entropy));
    }
}

/// Turns the logits of a student into `weight (p_i - q_i)` with its probabilities p and those q of a teacher, as in
/// [`softmax_gradient`].
pub(super) fn divergence_gradient(
    values: &mut [f32],
    teacher: &[f32],
    inverse_temperature: f32,
    (log_sum, teacher_log_sum): (f64, f64),
    weight: f32,
) {
    let (log_sum, teacher_log_sum) = (log_sum as f32, teacher_log_sum as f32);
    for (value, &teacher) in values.iter_mut().zip(teacher) {
        let p = exp(*value * inverse_temperature - log_sum);
        *value = weight * (p - exp(teacher * inverse_temperature - teacher_log_sum));
    }
}

/// Statistics of one row of logits of a student s and of a teacher t, updated chunk by chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairStatistics {
    pub student: RowStatistics,
    pub teacher: RowStatistics,
    /// Sum of `exp(t - max t) (t - s)`: differences are summed, not the two parts, whose sums would cancel.
    weighted_gap: f64,
    /// Most probable entries and their logits, the first of equals.
    student_best: (usize, f32),
    teacher_best: (usize, f32),
}

impl PairStatistics {
    pub(super) const EMPTY: Self = Self {
        student: RowStatistics::EMPTY,
        teacher: RowStatistics::EMPTY,
        weighted_gap: 0.0,
        student_best: (0, f32::NEG_INFINITY),
        teacher_best: (0, f32::NEG_INFINITY),
    };

    /// Takes in the next logits, the first of which are those of entry `start`; they are divided by the temperature.
    pub(super) fn update(&mut self, start: usize, student: &[f32], teacher: &[f32], inverse_temperature: f32) {
        let max_before = self.teacher.max;
        self.student.update(student, inverse_temperature);
        self.teacher.update(teacher, inverse_temperature);
        self.weighted_gap *= f64::from(max_before - self.teacher.max).exp();
        let max = self.teacher.max;
        let mut sums = [0.0f32; LANES];
        let mut add = |lane: usize, student: f32, teacher: f32| {
            sums[lane] += exp(teacher * inverse_temperature - max) * ((teacher - student) * inverse_temperature);
        };
        let (student_chunks, student_rest) = student.as_chunks::<LANES>();
        let (teacher_chunks, teacher_rest) = teacher.as_chunks::<LANES>();
        for (student, teacher) in student_chunks.iter().zip(teacher_chunks) {
            for lane in 0..LANES {
                add(lane, student[lane], teacher[lane]);
            }
        }
        for (lane, (&student, &teacher)) in student_rest.iter().zip(teacher_rest).enumerate() {
            add(lane, student, teacher);
        }
        self.weighted_gap += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        let best = |best: (usize, f32), logits: &[f32]| {
            let entries = logits.iter().enumerate();
            entries.fold(best, |best, (i, &logit)| if logit > best.1 { (start + i, logit) } else { best })
        };
        self.student_best = best(self.student_best, student);
        self.teacher_best = best(self.teacher_best, teacher);
    }

    /// `KL(teacher || student) = sum p_t (log p_t - log p_s)` in nats.
    pub(super) fn divergence(&self) -> f32 {
        let gap = self.weighted_gap / self.teacher.sum;
        (gap - (self.teacher.log_sum() - self.student.log_sum())).max(0.0) as f32
    }

    /// Whether both find the same entry most probable.
    pub(super) fn agrees(&self) -> bool {
        self.student_best.0 == self.teacher_best.0
    }
}

/// Independent sums, so that the loop over them becomes vector instructions.
const LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_do_not_depend_on_the_chunks() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1013) as f32 / 30.0 - 17.0).collect();
        let temperature = 0.7;
        let z: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) / temperature).collect();
        let log_sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        let entropy: f64 = z.iter().map(|z| -(z - log_sum) * (z - log_sum).exp()).sum();
        for chunk in [1, 7, 100, 1000] {
            let mut row = RowStatistics::EMPTY;
            logits.chunks(chunk).for_each(|chunk| row.update(chunk, 1.0 / temperature as f32));
            // f32 terms, a thousand of them.
            assert!((row.log_sum() - log_sum).abs() < 1e-5, "{} for {log_sum}", row.log_sum());
            assert!((f64::from(row.entropy()) - entropy).abs() < 1e-5, "{} for {entropy}", row.entropy());
        }
        // Probabilities sum to 1, and the gradient of an entropy to 0.
        for (weight, entropy_weight) in [(2.0, 0.0), (2.0, 3.0)] {
            let mut values = logits.clone();
            let sums = (log_sum, entropy as f32);
            softmax_gradient(&mut values, 1.0 / temperature as f32, sums, weight, entropy_weight);
            assert!((values.iter().sum::<f32>() + weight).abs() < 1e-4);
        }
    }

    #[test]
    fn divergences_do_not_depend_on_the_chunks() {
        let logits =
            |factor: usize| -> Vec<f32> { (0..1000).map(|i| ((i * factor) % 1013) as f32 / 60.0 - 9.0).collect() };
        let temperature = 0.7;
        let (student, teacher) = (logits(7919), logits(7907));
        let log_probabilities = |logits: &[f32]| -> Vec<f64> {
            let z = || logits.iter().map(|&logit| f64::from(logit) / temperature);
            let log_sum = z().map(f64::exp).sum::<f64>().ln();
            z().map(|z| z - log_sum).collect()
        };
        let (p_s, p_t) = (log_probabilities(&student), log_probabilities(&teacher));
        let expected: f64 = p_t.iter().zip(&p_s).map(|(t, s)| t.exp() * (t - s)).sum();
        let best = |values: &[f64]| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
        for chunk in [1, 7, 100, 1000] {
            let mut row = PairStatistics::EMPTY;
            for (index, (student, teacher)) in student.chunks(chunk).zip(teacher.chunks(chunk)).enumerate() {
                row.update(index * chunk, student, teacher, 1.0 / temperature as f32);
            }
            // f32 terms, a thousand of them.
            assert!((f64::from(row.divergence()) - expected).abs() < 1e-5, "{} for {expected}", row.divergence());
            assert_eq!(row.agrees(), best(&p_s) == best(&p_t));
            let mut same = PairStatistics::EMPTY;
            teacher.chunks(chunk).enumerate().for_each(|(i, logits)| same.update(i * chunk, logits, logits, 1.0));
            assert!(same.divergence() == 0.0 && same.agrees());
        }
    }

    #[test]
    fn what_is_left_out_has_no_share_in_any_sum() {
        // Whole chunks too, the first and the last.
        let logits = [LEFT_OUT, LEFT_OUT, 1.5, LEFT_OUT, -0.5, 0.25, LEFT_OUT, LEFT_OUT];
        let kept = [1.5f64, -0.5, 0.25].map(|logit| logit / 0.5);
        let log_sum = kept.iter().map(|z| z.exp()).sum::<f64>().ln();
        let entropy: f64 = kept.iter().map(|z| -(z - log_sum) * (z - log_sum).exp()).sum();
        for chunk in [1, 2, 8] {
            let mut row = RowStatistics::EMPTY;
            logits.chunks(chunk).for_each(|chunk| row.update(chunk, 2.0));
            assert!((row.log_sum() - log_sum).abs() < 1e-6, "{} for {log_sum}", row.log_sum());
            assert!((f64::from(row.entropy()) - entropy).abs() < 1e-6, "{} for {entropy}", row.entropy());
        }
        let mut gradients = logits;
        softmax_gradient(&mut gradients, 2.0, (log_sum, entropy as f32), 1.0, 1.0);
        let is_left_out = |index: usize| logits[index] == LEFT_OUT;
        assert!((0..8).all(|index| (gradients[index] == 0.0) == is_left_out(index)), "{gradients:?}");
    }

    #[test]
    fn one_certain_token_has_no_entropy() {
        let mut row = RowStatistics::EMPTY;
        row.update(&[0.0, 500.0, -300.0], 1.0);
        assert_eq!(row.entropy(), 0.0);
        assert_eq!(row.log_sum(), 500.0);
    }
}
