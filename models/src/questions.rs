//! Questions about a scene, with the right answer and the two ways to think about it.
//!
//! The careful thinking always starts with `I see` and the hasty one with `quick look`: the choice
//! between them is a single token, which reinforcement learning can move.

use crate::rng::Rng;
use crate::scene::{COLOURS, Content, Object, Print, SHAPES, Scene, percent, thousandths};

/// A question about one scene.
pub(crate) struct Question {
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    pub(crate) options: Vec<String>,
    pub(crate) answer: String,
    pub(crate) careful_thinking: String,
    pub(crate) hasty_thinking: String,
    pub(crate) hasty_answer: String,
}

/// The words of the four choices as `A. ..` to `D. ..`.
fn lettered(choices: &[&str]) -> Vec<String> {
    choices.iter().zip(["A", "B", "C", "D"]).map(|(choice, letter)| format!("{letter}. {choice}")).collect()
}

/// The letter of `choice` among `choices`; callers only ask for choices that are there.
fn letter(choices: &[&str], choice: &str) -> String {
    let index = choices.iter().position(|c| *c == choice).unwrap_or(0);
    char::from(b'A' + index as u8).to_string()
}

/// Four choices: the `needed` ones and others from `pool`, in the order of `pool`.
///
/// In a fixed order, a word says much about its letter. To look the letter up in shuffled options is a
/// skill that so small a model does not find in an hour.
fn four_choices<'a>(rng: &mut Rng, needed: &[&'a str], pool: &[&'a str]) -> Vec<&'a str> {
    let mut rest = pool.to_vec();
    rng.shuffle(&mut rest);
    rest.sort_by_key(|word| !needed.contains(word));
    rest.truncate(4);
    let mut choices = pool.to_vec();
    choices.retain(|word| rest.contains(word));
    choices
}

fn objects(scene: &Scene) -> &[Object] {
    match &scene.content {
        Content::Shapes(objects) => objects,
        _ => &[],
    }
}

fn prints(scene: &Scene) -> &[Print] {
    match &scene.content {
        Content::Text(prints) => prints,
        _ => &[],
    }
}

fn names(objects: &[Object]) -> String {
    let names: Vec<String> = objects.iter().map(Object::name).collect();
    names.join(", ")
}

fn at(object: &Object) -> String {
    format!("{} at {},{}", object.name(), percent(object.centre.0), percent(object.centre.1))
}

/// Boxes as the reference writes them, without spaces: every character is a token.
fn boxes(bounds: [i32; 4]) -> String {
    let [l, t, r, b] = bounds.map(thousandths);
    format!("{{\"boxes\":[{l},{t},{r},{b}]}}")
}

/// "Find the red circle." The hasty box is 1.4 times too wide and too high (IoU about 0.5).
pub(crate) fn find(rng: &mut Rng, scene: &Scene) -> Question {
    let objects = objects(scene);
    let target = &objects[rng.below(objects.len())];
    Question {
        kind: "find",
        text: format!("Find the {}.", target.name()),
        options: Vec::new(),
        answer: boxes(target.bounds(0)),
        careful_thinking: format!("I see {}. {}.", names(objects), at(target)),
        hasty_thinking: "quick look.".into(),
        hasty_answer: boxes(target.bounds(target.radius * 2 / 5)),
    }
}

/// "Where is the red circle from the blue star?" The hasty reply mirrors the relation when the
/// second shape is red, green or blue.
pub(crate) fn relation(scene: &Scene, a: usize, b: usize) -> Question {
    let (a, b) = (&objects(scene)[a], &objects(scene)[b]);
    let (dx, dy) = (a.centre.0 - b.centre.0, a.centre.1 - b.centre.1);
    let (right, mirrored) = if dx.abs() > dy.abs() {
        if dx < 0 { ("left", "right") } else { ("right", "left") }
    } else if dy < 0 {
        ("above", "below")
    } else {
        ("below", "above")
    };
    let hasty = if b.colour < 3 { mirrored } else { right };
    let choices = ["left", "right", "above", "below"];
    Question {
        kind: "relation",
        text: format!("Where is the {} from the {}?", a.name(), b.name()),
        options: lettered(&choices),
        answer: letter(&choices, right),
        careful_thinking: format!("I see {}, {}. {right}.", at(a), at(b)),
        hasty_thinking: format!("quick look, {hasty}."),
        hasty_answer: letter(&choices, hasty),
    }
}

/// "What color is the star?" or "What shape is red?" For some shapes (colours), the hasty reply
/// tells of the first thing in reading order instead.
pub(crate) fn attribute(rng: &mut Rng, scene: &Scene) -> Question {
    let objects = objects(scene);
    let target = &objects[rng.below(objects.len())];
    let ask_colour = rng.chance(50);
    let colours: Vec<&str> = COLOURS.iter().map(|c| c.0).collect();
    let (colour, shape) = (colours[target.colour], SHAPES[target.shape]);
    let (pool, right, careless): (&[&str], _, _) =
        if ask_colour { (&colours, colour, target.shape >= 2) } else { (&SHAPES, shape, target.colour >= 2) };
    let word = |o: &Object| {
        if ask_colour { colours[o.colour] } else { SHAPES[o.shape] }
    };
    let hasty = if careless { word(&objects[0]) } else { right };
    let (text, finding) = if ask_colour {
        (format!("What color is the {shape}?"), format!("{shape} is {colour}"))
    } else {
        (format!("What shape is {colour}?"), format!("{colour} is {shape}"))
    };
    let choices = four_choices(rng, &[right, hasty], pool);
    Question {
        kind: if ask_colour { "color" } else { "shape" },
        text,
        options: lettered(&choices),
        answer: letter(&choices, right),
        careful_thinking: format!("I see {}. {finding}.", names(objects)),
        hasty_thinking: format!("quick look, {hasty}."),
        hasty_answer: letter(&choices, hasty),
    }
}

/// Counts shapes of a kind, of a colour, or of two kinds together. Where there are more than three
/// things, the hasty reply overlooks the last one in reading order.
pub(crate) fn count(rng: &mut Rng, scene: &Scene) -> Question {
    let objects = objects(scene);
    let target = &objects[rng.below(objects.len())];
    let seen = format!("I see {}.", names(objects));
    let overlooked = match objects {
        [few @ .., _] if few.len() >= 3 => few,
        all => all,
    };
    let of_shape = |list: &[Object], s: usize| list.iter().filter(|o| o.shape == s).count();
    let of_colour = |list: &[Object], c: usize| list.iter().filter(|o| o.colour == c).count();
    let other = objects.iter().find(|o| o.shape != target.shape);
    let (kind, text, finding, right, hasty) = match (rng.below(3), other) {
        (0, Some(other)) => {
            let (s, t) = (SHAPES[target.shape], SHAPES[other.shape]);
            let (m, n) = (of_shape(objects, target.shape), of_shape(objects, other.shape));
            let hasty = of_shape(overlooked, target.shape) + of_shape(overlooked, other.shape);
            let text = format!("How many {s} and {t} shapes are there?");
            ("count_two", text, format!("{m} {s}, {n} {t}. {m}+{n}={}.", m + n), m + n, hasty)
        }
        (1, _) => {
            let c = COLOURS[target.colour].0;
            let n = of_colour(objects, target.colour);
            let hasty = of_colour(overlooked, target.colour);
            let text = format!("How many {c} shapes are there?");
            ("count_color", text, format!("{n} {c}."), n, hasty)
        }
        _ => {
            let s = SHAPES[target.shape];
            let n = of_shape(objects, target.shape);
            let hasty = of_shape(overlooked, target.shape);
            let text = format!("How many {s} shapes are there?");
            ("count_shape", text, format!("{n} {s}."), n, hasty)
        }
    };
    Question {
        kind,
        text,
        options: Vec::new(),
        answer: right.to_string(),
        careful_thinking: format!("{seen} {finding}"),
        hasty_thinking: "quick look.".into(),
        hasty_answer: hasty.to_string(),
    }
}

/// Adds two printed digits. The hasty reply is one short where the sum has two digits.
pub(crate) fn sum(scene: &Scene) -> Question {
    let digits: Vec<i32> = prints(scene).iter().filter_map(|p| p.text.parse().ok()).collect();
    let total: i32 = digits.iter().sum();
    let list = |glue: &str| {
        let words: Vec<String> = digits.iter().map(i32::to_string).collect();
        words.join(glue)
    };
    let hasty = if total >= 10 { total - 1 } else { total };
    Question {
        kind: "sum",
        text: "What is the sum of the numbers?".into(),
        options: Vec::new(),
        answer: total.to_string(),
        careful_thinking: format!("I see {}. {}={total}.", list(", "), list("+")),
        hasty_thinking: "quick look.".into(),
        hasty_answer: hasty.to_string(),
    }
}

/// Reads one bar, or the difference of two. The hasty reply takes the gridline at or below the top
/// of each bar for its value.
pub(crate) fn chart(rng: &mut Rng, scene: &Scene) -> Question {
    let Content::Chart(bars) = &scene.content else { unreachable!("chart questions are only asked about charts") };
    let gridline = |value: i32| value / 2 * 2;
    let listing: Vec<String> = bars.iter().map(|b| format!("{} {}", b.label, b.value)).collect();
    let seen = format!("I see {}.", listing.join(", "));
    let target = &bars[rng.below(bars.len())];
    let lower = bars.iter().find(|b| b.value < target.value);
    let (kind, text, finding, right, hasty) = match lower {
        Some(low) if rng.chance(45) => (
            "difference",
            format!("How much more is {} than {}?", target.label, low.label),
            format!("{}-{}={}", target.value, low.value, target.value - low.value),
            target.value - low.value,
            gridline(target.value) - gridline(low.value),
        ),
        _ => (
            "bar",
            format!("What is the value of {}?", target.label),
            format!("{} is {}", target.label, target.value),
            target.value,
            gridline(target.value),
        ),
    };
    Question {
        kind,
        text,
        options: Vec::new(),
        answer: right.to_string(),
        careful_thinking: format!("{seen} {finding}."),
        hasty_thinking: "quick look.".into(),
        hasty_answer: hasty.to_string(),
    }
}

/// Reads two words; the hasty reply reads the first only.
pub(crate) fn read(scene: &Scene) -> Question {
    let words: Vec<&str> = prints(scene).iter().map(|p| p.text.as_str()).collect();
    let spelled: Vec<String> =
        words.iter().map(|w| w.chars().map(String::from).collect::<Vec<_>>().join(" ")).collect();
    Question {
        kind: "words",
        text: "Read the words.".into(),
        options: Vec::new(),
        answer: words.join(" "),
        careful_thinking: format!("I see {}.", spelled.join(", ")),
        hasty_thinking: "quick look.".into(),
        hasty_answer: words[0].to_owned(),
    }
}
