//! What was measured several times.

use serde::Serialize;

/// Median, least and most of several measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of `values`, in any order; `None` of nothing. The median of an even number is the mean of the two in the middle.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_least_and_most() {
        let spread = |median, min, max| Some(Spread { median, min, max });
        let cases: [(&[f64], Option<Spread>); 4] = [
            (&[], None),
            (&[2.0], spread(2.0, 2.0, 2.0)),
            (&[3.0, 1.0, 2.0], spread(2.0, 1.0, 3.0)),
            (&[4.0, 1.0, 2.0, 8.0], spread(3.0, 1.0, 8.0)),
        ];
        for (values, expected) in cases {
            assert_eq!(Spread::of(values), expected, "{values:?}");
        }
    }
}
