//! Drawings of the report as inline SVG: curves, whiskers, pictures with boxes. Colours are the page's CSS classes.

use std::fmt::Write as _;

use owlet::Interval;

use super::{Picture, page::escape};

/// Values over training steps, finite or left out.
#[derive(Debug)]
pub(super) struct Curve<'a> {
    pub(super) title: &'a str,
    /// What the numbers count, shown beside the title.
    pub(super) unit: &'a str,
    /// (step, value), in order of steps.
    pub(super) points: Vec<(f64, f64)>,
}

/// A box and how it is drawn.
#[derive(Debug)]
pub(super) struct DrawnBox {
    /// `[x1, y1, x2, y2]`, 0..1000.
    pub(super) corners: [f64; 4],
    /// CSS class: `truth`, `before` or `after`.
    pub(super) class: &'static str,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;

/// A step's value and, bold, the mean of the last few: single steps see only a few prompts and are noisy.
pub(super) fn curve(curve: &Curve<'_>) -> String {
    let points: Vec<(f64, f64)> =
        curve.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let mut svg = format!(
        "<figure><figcaption>{} <small>{}</small></figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{}\">",
        escape(curve.title),
        escape(curve.unit),
        escape(curve.title),
    );
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        let _ = write!(svg, "<text class=\"tick\" x=\"{LEFT}\" y=\"40\">no steps</text></svg></figure>");
        return svg;
    };
    let (x_low, x_high) = (first.0, if last.0 > first.0 { last.0 } else { first.0 + 1.0 });
    let y_ticks = ticks(points.iter().map(|point| point.1), 4);
    let (y_low, y_high) = (y_ticks[0], y_ticks[y_ticks.len() - 1]);
    let x = |value: f64| LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);

    let decimals = decimals_of(y_ticks[1] - y_ticks[0]);
    for &tick in &y_ticks {
        let (at, right) = (y(tick), WIDTH - RIGHT);
        let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let (label, base) = (LEFT - 7.0, at + 4.0);
        let _ = write!(svg, "<text class=\"tick end\" x=\"{label}\" y=\"{base:.1}\">{tick:.decimals$}</text>");
    }
    let base = HEIGHT - 8.0;
    let _ = write!(svg, "<text class=\"tick end\" x=\"{}\" y=\"{base}\">step</text>", LEFT - 7.0);
    for tick in ticks([x_low, x_high].into_iter(), 6)
        .into_iter()
        .filter(|tick| (x_low..=x_high).contains(tick) && tick.fract() == 0.0)
    {
        let _ = write!(svg, "<text class=\"tick middle\" x=\"{:.1}\" y=\"{base}\">{tick:.0}</text>", x(tick));
    }
    let place = |points: &[(f64, f64)]| -> String {
        points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect::<Vec<_>>().join(" ")
    };
    let _ = write!(svg, "<polyline class=\"single\" points=\"{}\"/>", place(&points));
    let smooth = trailing_means(&points, (points.len() / 10).clamp(1, 8));
    let _ = write!(svg, "<polyline class=\"mean\" points=\"{}\"/>", place(&smooth));
    for &(step, value) in &points {
        let (at_x, at_y) = (x(step), y(value));
        let hover = format!("step {step:.0}: {value:.precision$}", precision = decimals + 1);
        let _ = write!(
            svg,
            "<circle class=\"hit\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"5\"><title>{hover}</title></circle>"
        );
    }
    svg.push_str("</svg></figure>");
    svg
}

/// Two estimates of a share on one 0..1 track: points with whiskers, before above after.
pub(super) fn whiskers(before: Interval, after: Interval) -> String {
    let x = |value: f64| 4.0 + value.clamp(0.0, 1.0) * 192.0;
    let mut svg = String::from("<svg class=\"track\" viewBox=\"0 0 200 26\" aria-hidden=\"true\">");
    for tenth in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let _ = write!(svg, "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"1\" y2=\"25\"/>", x(tenth));
    }
    for (estimate, class, y) in [(before, "before", 8), (after, "after", 18)] {
        let (low, high, mean) = (x(estimate.low), x(estimate.high), x(estimate.mean));
        let _ = write!(svg, "<line class=\"whisker {class}\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y}\" y2=\"{y}\"/>");
        let _ = write!(svg, "<circle class=\"dot {class}\" cx=\"{mean:.1}\" cy=\"{y}\" r=\"4\"/>");
    }
    svg.push_str("</svg>");
    svg
}

/// The picture, inline, with boxes over it.
pub(super) fn picture(picture: &Picture, boxes: &[DrawnBox]) -> String {
    let (width, height) = (f64::from(picture.width), f64::from(picture.height));
    let mut svg = format!(
        "<svg class=\"picture\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"the picture asked about\">\
         <image href=\"data:image/png;base64,{}\" width=\"{width}\" height=\"{height}\"/>",
        base64(&picture.png)
    );
    for drawn in boxes {
        let [x1, y1, x2, y2] = drawn.corners.map(|corner| corner.clamp(0.0, 1000.0) / 1000.0);
        let (left, top) = (x1.min(x2) * width, y1.min(y2) * height);
        let (across, down) = ((x2 - x1).abs() * width, (y2 - y1).abs() * height);
        let _ = write!(
            svg,
            "<rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{across:.1}\" height=\"{down:.1}\"/>",
            drawn.class
        );
    }
    svg.push_str("</svg>");
    svg
}

/// At least two round numbers that enclose `values` (finite, at least one), about `wanted` of them.
fn ticks(values: impl Iterator<Item = f64>, wanted: usize) -> Vec<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let span = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
    let rough = span / wanted as f64;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|round| round * magnitude).into_iter().find(|&step| step >= rough);
    let step = step.unwrap_or(10.0 * magnitude);
    let (first, last) = ((low / step).floor(), (high / step).ceil());
    let last = if last > first { last } else { first + 1.0 };
    (0..=(last - first) as usize).map(|index| (first + index as f64) * step).collect()
}

/// Decimals that tell multiples of `step` apart.
fn decimals_of(step: f64) -> usize {
    (0..6)
        .find(|&decimals| (step * 10f64.powi(decimals) - (step * 10f64.powi(decimals)).round()).abs() < 1e-6)
        .unwrap_or(6) as usize
}

/// The mean of every point with up to `reach` points before it.
fn trailing_means(points: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    let mean = |end: usize| {
        let window = &points[end.saturating_sub(reach)..=end];
        window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64
    };
    (0..points.len()).map(|end| (points[end].0, mean(end))).collect()
}

/// Base64 of RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let symbol = ALPHABET[(bits >> (18 - 6 * digit)) as usize & 63];
            text.push(if digit <= chunk.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_vectors_of_rfc_4648() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        let cases = [
            (vec![0.31, 0.78], vec![0.2, 0.4, 0.6, 0.8]),
            (vec![5.0], vec![5.0, 5.2]),
            (vec![0.0], vec![0.0, 0.025]),
            (vec![-1.0, 1.0], vec![-1.0, -0.5, 0.0, 0.5, 1.0]),
        ];
        for (values, expected) in cases {
            let found = ticks(values.iter().copied(), 4);
            let near = found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9);
            assert!(near, "{values:?}: {found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn a_curve_survives_missing_and_infinite_values() {
        let cases = [vec![], vec![(1.0, 0.5)], vec![(1.0, f64::NAN), (2.0, 0.25), (3.0, f64::INFINITY), (4.0, 0.75)]];
        for points in cases {
            let drawn = curve(&Curve { title: "reward", unit: "mean", points: points.clone() });
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{points:?}: {drawn}");
            assert!(drawn.ends_with("</svg></figure>"));
        }
    }

    #[test]
    fn boxes_scale_from_the_grid_to_the_picture() {
        let shown = Picture { png: vec![1, 2, 3], width: 200, height: 100 };
        let drawn = picture(&shown, &[DrawnBox { corners: [500.0, 0.0, 250.0, 1000.0], class: "truth" }]);
        assert!(
            drawn.contains("<rect class=\"truth\" x=\"50.0\" y=\"0.0\" width=\"50.0\" height=\"100.0\"/>"),
            "{drawn}"
        );
    }
}
