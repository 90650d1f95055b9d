//! The exponential function as loops over many numbers want it.

/// Below this, [`exp`] is 0. Even a large vocabulary of such terms is beneath the resolution of a sum that contains 1, and the
/// processor is a hundred times slower on the subnormal numbers that they would turn into.
const LOWEST: f32 = -60.0;

/// `e^x` to within 2 units in the last place for x from -60 to ~80, 0 below, and no number where x is none. Without branches and
/// calls, so that loops over it become vector instructions.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding and subtracting 1.5 * 2^23 rounds to an integer, which is then in the lowest
    // bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // `max` would lose what is not a number.
    let clamped = if x < LOWEST { LOWEST } else { x };
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
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < LOWEST { 0.0 } else { e * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_accurate() {
        for i in -6000..=8000 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            // Two units in the last place of f32.
            assert!(error < 2.4e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(-60.1), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
