//! Log-softmax over a vocabulary that is seen in chunks, and its gradient, on the host.

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

/// `gradients[i] = -weight * p_i` with `p_i = exp(logit_i / temperature - log_sum)`.
pub(super) fn softmax_gradient(
    gradients: &mut [f32],
    logits: &[f32],
    inverse_temperature: f32,
    log_sum: f64,
    weight: f32,
) {
    let log_sum = log_sum as f32;
    for (gradient, &logit) in gradients.iter_mut().zip(logits) {
        *gradient = -weight * exp(logit * inverse_temperature - log_sum);
    }
}

/// Adds `weight * p_i` to `gradients`, with p_i as in [`softmax_gradient`].
pub(super) fn add_probabilities(
    gradients: &mut [f32],
    logits: &[f32],
    inverse_temperature: f32,
    log_sum: f64,
    weight: f32,
) {
    let log_sum = log_sum as f32;
    for (gradient, &logit) in gradients.iter_mut().zip(logits) {
        *gradient += weight * exp(logit * inverse_temperature - log_sum);
    }
}

/// Adds `weight * dH/dz_i = -weight * p_i (log p_i + H)` to `gradients`, with p_i as in [`softmax_gradient`] and their
/// entropy H.
pub(super) fn add_entropy_gradient(
    gradients: &mut [f32],
    logits: &[f32],
    inverse_temperature: f32,
    (log_sum, entropy): (f64, f32),
    weight: f32,
) {
    let log_sum = log_sum as f32;
    for (gradient, &logit) in gradients.iter_mut().zip(logits) {
        let logprob = logit * inverse_temperature - log_sum;
        *gradient -= weight * exp(logprob) * (logprob + entropy);
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

/// Below this, `exp` is 0. Even a large vocabulary of such terms is beneath the resolution of a sum that contains 1, and the
/// processor is a hundred times slower on the subnormal numbers that they would turn into.
const LOWEST: f32 = -60.0;

/// `e^x` for x <= ~1 to within 2 units in the last place; 0 below [`LOWEST`]. Without branches and calls, so that loops over
/// it become vector instructions.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding and subtracting 1.5 * 2^23 rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.max(LOWEST);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in its product with n.
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    // Cephes' polynomial for (e^r - 1 - r) / r^2.
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < LOWEST { 0.0 } else { e * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_accurate() {
        for i in -6000..=100 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            // Two units in the last place of f32.
            assert!(error < 2.4e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(-60.1), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

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
        let mut gradients = vec![0.0; logits.len()];
        softmax_gradient(&mut gradients, &logits, 1.0 / temperature as f32, log_sum, 2.0);
        assert!((gradients.iter().sum::<f32>() + 2.0).abs() < 1e-4);
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
    fn one_certain_token_has_no_entropy() {
        let mut row = RowStatistics::EMPTY;
        row.update(&[0.0, 500.0, -300.0], 1.0);
        assert_eq!(row.entropy(), 0.0);
        assert_eq!(row.log_sum(), 500.0);
    }
}
