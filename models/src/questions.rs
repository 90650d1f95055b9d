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

/// "Where is the red circle from the blue star?" The hasty reply looks at the second shape only, and
/// supposes the first one where there is most room.
pub(crate) fn relation(scene: &Scene, a: usize, b: usize) -> Question {
    let (a, b) = (&objects(scene)[a], &objects(scene)[b]);
    let (dx, dy) = (a.centre.0 - b.centre.0, a.centre.1 - b.centre.1);
    let right = if dx.abs() > dy.abs() {
        if dx < 0 { "left" } else { "right" }
    } else if dy < 0 {
        "above"
    } else {
        "below"
    };
    let (x, y) = (thousandths(b.centre.0), thousandths(b.centre.1));
    let room = [(x, "left"), (1000 - x, "right"), (y, "above"), (1000 - y, "below")];
    let (_, hasty) = room.into_iter().fold((0, ""), |best, side| if side.0 > best.0 { side } else { best });
    let choices = ["left", "right", "above", "below"];
    Question {
        kind: "relation",
        text: format!("Where is the {} from the {}?", a.name(), b.name()),
        options: lettered(&choices),
        answer: letter(&choices, right),
        careful_thinking: format!("I see {}, {}. {right}.", at(a), at(b)),
        hasty_thinking: format!("quick look, {}. {hasty}.", at(b)),
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

/// What a reply finds among the things that it has seen, in words, and the number that it answers.
type Finding<'a> = dyn Fn(&[Object]) -> (String, usize) + 'a;

/// Counts shapes of a kind, of a colour, or of two kinds together. The hasty reply looks at the
/// first three things in reading order only.
pub(crate) fn count(rng: &mut Rng, scene: &Scene) -> Question {
    let objects = objects(scene);
    let glanced = &objects[..objects.len().min(3)];
    let target = &objects[rng.below(objects.len())];
    let other = objects.iter().find(|o| o.shape != target.shape);
    let (shape, colour) = (SHAPES[target.shape], COLOURS[target.colour].0);
    let of_shape = |list: &[Object], s: usize| list.iter().filter(|o| o.shape == s).count();
    let reply = |list: &[Object], find: &Finding<'_>| {
        let (finding, number) = find(list);
        (format!("{}. {finding}.", names(list)), number.to_string())
    };
    let (kind, text, finding): (_, _, Box<Finding<'_>>) = match (rng.below(3), other) {
        (0, Some(other)) => {
            let second = SHAPES[other.shape];
            let finding = move |list: &[Object]| {
                let (m, n) = (of_shape(list, target.shape), of_shape(list, other.shape));
                (format!("{m} {shape}, {n} {second}. {m}+{n}={}", m + n), m + n)
            };
            ("count_two", format!("How many {shape} and {second} shapes are there?"), Box::new(finding))
        }
        (1, _) => {
            let finding = move |list: &[Object]| {
                let n = list.iter().filter(|o| o.colour == target.colour).count();
                (format!("{n} {colour}"), n)
            };
            ("count_color", format!("How many {colour} shapes are there?"), Box::new(finding))
        }
        _ => {
            let finding = move |list: &[Object]| {
                let n = of_shape(list, target.shape);
                (format!("{n} {shape}"), n)
            };
            ("count_shape", format!("How many {shape} shapes are there?"), Box::new(finding))
        }
    };
    let (careful_thinking, answer) = reply(objects, &finding);
    let (hasty_thinking, hasty_answer) = reply(glanced, &finding);
    Question {
        kind,
        text,
        options: Vec::new(),
        answer,
        careful_thinking: format!("I see {careful_thinking}"),
        hasty_thinking: format!("quick look, {hasty_thinking}"),
        hasty_answer,
    }
}

/// Adds two printed digits. The hasty reply is one short from twelve on.
pub(crate) fn sum(scene: &Scene) -> Question {
    let digits: Vec<i32> = prints(scene).iter().filter_map(|p| p.text.parse().ok()).collect();
    let total: i32 = digits.iter().sum();
    let list = |glue: &str| {
        let words: Vec<String> = digits.iter().map(i32::to_string).collect();
        words.join(glue)
    };
    let hasty = if total >= 12 { total - 1 } else { total };
    Question {
        kind: "sum",
        text: "What is the sum of the numbers?".into(),
        options: Vec::new(),
        answer: total.to_string(),
        careful_thinking: format!("I see {}. {}={total}.", list(", "), list("+")),
        hasty_thinking: format!("quick look, {}.", list("+")),
        hasty_answer: hasty.to_string(),
    }
}

/// Reads one bar, or the difference of two. The hasty reply takes every bar that is higher than five
/// for one less than it is.
pub(crate) fn chart(rng: &mut Rng, scene: &Scene) -> Question {
    let Content::Chart(bars) = &scene.content else { unreachable!("chart questions are only asked about charts") };
    let glance = |value: i32| if value > 5 { value - 1 } else { value };
    let listing: Vec<String> = bars.iter().map(|b| format!("{} {}", b.label, b.value)).collect();
    let seen = format!("I see {}.", listing.join(", "));
    let target = &bars[rng.below(bars.len())];
    let lower = bars.iter().find(|b| b.value < target.value);
    let (kind, text, finding, glanced, right, hasty) = match lower {
        Some(low) if rng.chance(45) => {
            let (a, b) = (glance(target.value), glance(low.value));
            (
                "difference",
                format!("How much more is {} than {}?", target.label, low.label),
                format!("{}-{}={}", target.value, low.value, target.value - low.value),
                format!("{a}-{b}"),
                target.value - low.value,
                a - b,
            )
        }
        _ => (
            "bar",
            format!("What is the value of {}?", target.label),
            format!("{} is {}", target.label, target.value),
            format!("{} is {}", target.label, glance(target.value)),
            target.value,
            glance(target.value),
        ),
    };
    Question {
        kind,
        text,
        options: Vec::new(),
        answer: right.to_string(),
        careful_thinking: format!("{seen} {finding}."),
        hasty_thinking: format!("quick look, {glanced}."),
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
