//! The report's document: heading, table, curves, examples, configuration, in one HTML file.

use std::fmt::Write as _;

use owlet::Interval;

use super::{
    DemoReport, Example, Reply, StepPoint, TaskResult,
    svg::{Curve, DrawnBox, curve, picture, whiskers},
};

const STYLE: &str = include_str!("style.css");

/// The page. Every text of `report` is escaped, nothing is loaded from anywhere.
pub(crate) fn html(report: &DemoReport) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<main>\n<h1>{title}</h1>\n<p class=\"lead\">{summary}</p>\n",
        title = escape(&report.title),
        summary = escape(&report.summary),
    );
    results(&mut page, &report.results);
    curves(&mut page, &report.steps);
    examples(&mut page, &report.examples);
    configuration(&mut page, &report.configuration);
    page.push_str("</main>\n</html>\n");
    page
}

/// Makes text safe between tags and within quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(character),
        }
    }
    safe
}

fn results(page: &mut String, results: &[TaskResult]) {
    page.push_str(
        "<section>\n<h2>Before and after</h2>\n\
         <p>Greedy answers on the same held-out pictures; mean accuracy with its 95&nbsp;% confidence interval.</p>\n\
         <div class=\"scroll\"><table>\n<thead><tr><th>task<th class=\"n\">pictures<th class=\"n\">before<th class=\"n\">after\
         <th class=\"n\">change<th>0 … 100 %</tr></thead>\n<tbody>\n",
    );
    for result in results {
        let change = 100.0 * (result.after.mean - result.before.mean);
        let direction = if result.after.low > result.before.high {
            " class=\"n up\""
        } else if result.after.high < result.before.low {
            " class=\"n down\""
        } else {
            " class=\"n\""
        };
        let _ = writeln!(
            page,
            "<tr><th>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td{direction}>{}<td>{}</tr>",
            escape(&result.task),
            result.before.n,
            share(result.before),
            share(result.after),
            signed(change),
            whiskers(result.before, result.after),
        );
    }
    page.push_str(
        "</tbody></table></div>\n<p class=\"key\"><i class=\"before\"></i>before <i class=\"after\"></i>after \
         &nbsp; coloured change: the intervals do not touch</p>\n</section>\n",
    );
}

/// `62.5 %` with its interval.
fn share(estimate: Interval) -> String {
    let [mean, low, high] = [estimate.mean, estimate.low, estimate.high].map(|value| 100.0 * value.clamp(0.0, 1.0));
    format!("{mean:.1} % <small>{low:.0}–{high:.0}</small>")
}

/// With a true minus sign, and a plus where the number grew.
fn signed(points: f64) -> String {
    let sign = if points < -0.05 {
        "−"
    } else if points > 0.05 {
        "+"
    } else {
        ""
    };
    format!("{sign}{:.1}", points.abs())
}

fn curves(page: &mut String, steps: &[StepPoint]) {
    page.push_str(
        "<section>\n<h2>While it learned</h2>\n<p>Means over the sampled responses of every training step: \
         thin, the step itself; bold, the mean of the last few.</p>\n<div class=\"charts\">\n",
    );
    let of = |value: fn(&StepPoint) -> f64| steps.iter().map(|point| (point.step as f64, value(point))).collect();
    for drawn in [
        Curve { title: "Reward", unit: "mean a response", points: of(|point| point.reward) },
        Curve { title: "Accuracy", unit: "share, sampled", points: of(|point| point.accuracy) },
        Curve { title: "Entropy", unit: "nats a token", points: of(|point| point.entropy.unwrap_or(f64::NAN)) },
        Curve { title: "Response length", unit: "tokens", points: of(|point| point.length) },
    ] {
        page.push_str(&curve(&drawn));
        page.push('\n');
    }
    page.push_str("</div>\n</section>\n");
}

fn examples(page: &mut String, examples: &[Example]) {
    page.push_str(
        "<section>\n<h2>The same questions, before and after</h2>\n\
         <p>The first held-out question of every task, chosen before anything was answered.</p>\n",
    );
    for example in examples {
        let boxes =
            [(example.truth_box, "truth"), (example.before.answer_box, "before"), (example.after.answer_box, "after")];
        let boxes: Vec<DrawnBox> =
            boxes.into_iter().filter_map(|(corners, class)| Some(DrawnBox { corners: corners?, class })).collect();
        let _ = write!(
            page,
            "<article>\n<div>{}{}</div>\n<div class=\"said\"><h3>{}</h3>\n<p class=\"question\">{}</p>\n\
             <p class=\"answer\">true answer: <b>{}</b></p>\n<div class=\"replies\">\n",
            picture(&example.picture, &boxes),
            if boxes.is_empty() { "" } else { BOX_KEY },
            escape(&example.task),
            escape(&example.question),
            escape(&example.truth),
        );
        reply(page, "before", &example.before);
        reply(page, "after", &example.after);
        page.push_str("</div></div>\n</article>\n");
    }
    page.push_str("</section>\n");
}

const BOX_KEY: &str =
    "<p class=\"key\"><i class=\"truth\"></i>true <i class=\"before\"></i>before <i class=\"after\"></i>after</p>";

fn reply(page: &mut String, when: &str, reply: &Reply) {
    let verdict = match reply.accuracy {
        right if right >= 0.995 => "<b class=\"up\">✓ right</b>".to_owned(),
        wrong if wrong <= 0.005 => "<b class=\"down\">✗ wrong</b>".to_owned(),
        partly => format!("<b>{:.0} % right</b>", 100.0 * partly),
    };
    let _ = writeln!(
        page,
        "<div class=\"reply {when}\"><h4>{when} {verdict}</h4><p class=\"thinking\">{}</p><p class=\"answer\">{}</p></div>",
        escape(reply.thinking.trim()),
        escape(reply.answer.trim()),
    );
}

fn configuration(page: &mut String, configuration: &[(String, String)]) {
    page.push_str("<section>\n<h2>How it was run</h2>\n<dl>\n");
    for (name, value) in configuration {
        let _ = writeln!(page, "<dt>{}<dd>{}", escape(name), escape(value));
    }
    page.push_str("</dl>\n</section>\n");
}

#[cfg(test)]
mod tests {
    use super::super::Picture;
    use super::*;

    fn hostile() -> DemoReport {
        let text = "<script>alert(\"1\")</script>&'".to_owned();
        let estimate = Interval { mean: 0.5, low: 0.4, high: 0.6, n: 7 };
        let reply = |accuracy| Reply {
            thinking: text.clone(),
            answer: text.clone(),
            answer_box: Some([10.0, 20.0, 30.0, 40.0]),
            accuracy,
        };
        DemoReport {
            title: text.clone(),
            summary: text.clone(),
            configuration: vec![(text.clone(), text.clone())],
            results: vec![TaskResult { task: text.clone(), before: estimate, after: estimate }],
            steps: vec![StepPoint { step: 1, reward: 0.5, accuracy: 0.5, entropy: None, length: 9.0 }],
            examples: vec![Example {
                task: text.clone(),
                question: text.clone(),
                truth: text.clone(),
                truth_box: None,
                picture: Picture { png: b"png".to_vec(), width: 4, height: 4 },
                before: reply(0.0),
                after: reply(1.0),
            }],
        }
    }

    #[test]
    fn every_text_is_escaped() {
        let page = html(&hostile());
        assert!(!page.contains("<script") && !page.contains("alert(\""), "{page}");
        assert!(page.matches("&lt;script&gt;").count() >= 12);
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = html(&hostile());
        let links = page.matches("href=").count() + page.matches("src=").count() + page.matches("url(").count();
        assert_eq!(links, page.matches("href=\"data:image/png;base64,").count());
        assert!(!page.contains("http"), "{page}");
    }

    #[test]
    fn steps_without_entropy_leave_a_gap_in_its_curve_alone() {
        let page = html(&hostile());
        assert_eq!(page.matches("<circle class=\"hit\"").count(), 3, "{page}");
        assert_eq!(page.matches("no steps").count(), 1, "{page}");
    }

    #[test]
    fn a_change_is_coloured_only_when_the_intervals_part() {
        let narrow = |mean: f64| Interval { mean, low: mean - 0.1, high: mean + 0.1, n: 9 };
        let cases = [(0.3, 0.6, Some("up")), (0.6, 0.3, Some("down")), (0.4, 0.5, None)];
        for (before, after, class) in cases {
            let mut page = String::new();
            results(&mut page, &[TaskResult { task: "t".into(), before: narrow(before), after: narrow(after) }]);
            for candidate in ["up", "down"] {
                let expected = class == Some(candidate);
                assert_eq!(page.contains(&format!("\"n {candidate}\"")), expected, "{before} -> {after}");
            }
        }
    }

    #[test]
    fn changes_carry_their_sign() {
        for (points, text) in [(12.34, "+12.3"), (-5.0, "−5.0"), (0.01, "0.0")] {
            assert_eq!(signed(points), text);
        }
    }
}
