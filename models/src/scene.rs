//! What can be in a picture: coloured shapes, printed text, or a bar chart.
//!
//! A scene is a plain description. It draws itself, lists itself in words, and decides by a hash
//! of its content which split it belongs to, so that no scene is ever in both.

use image::RgbImage;

use crate::canvas::{Canvas, Colour as Rgb, UNITS, UnitBox, in_polygon};
use crate::font;
use crate::rng::mix;

/// The six colours, with the word and the mean colour of each.
pub const COLOURS: [(&str, Rgb); 6] = [
    ("red", [214, 40, 40]),
    ("green", [40, 160, 60]),
    ("blue", [40, 80, 210]),
    ("yellow", [235, 195, 20]),
    ("purple", [150, 50, 180]),
    ("black", [30, 30, 30]),
];

/// The five shapes, by their words.
pub const SHAPES: [&str; 5] = ["circle", "square", "triangle", "star", "cross"];

/// A star that touches all four sides of the box -1000..1000.
const STAR: [(i32, i32); 10] = [
    (0, -1000),
    (260, -270),
    (1000, -236),
    (420, 249),
    (618, 1000),
    (0, 570),
    (-618, 1000),
    (-420, 249),
    (-1000, -236),
    (-260, -270),
];

/// One coloured shape. Every shape touches all four sides of its box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Index into [`SHAPES`].
    pub shape: usize,
    /// Index into [`COLOURS`].
    pub colour: usize,
    /// Cell 0..9 of the 3 x 3 grid, in reading order.
    pub cell: usize,
    /// Centre, in units.
    pub centre: (i32, i32),
    /// Half of the width and of the height, in units.
    pub radius: i32,
}

impl Object {
    /// Colour and shape in words.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", COLOURS[self.colour].0, SHAPES[self.shape])
    }

    /// The box around the shape, grown by `margin`, cut off at the border of the picture.
    #[must_use]
    pub fn bounds(&self, margin: i32) -> UnitBox {
        let ((x, y), r) = (self.centre, self.radius + margin);
        [x - r, y - r, x + r, y + r].map(|v| v.clamp(0, UNITS))
    }

    /// Whether a point belongs to the shape.
    #[must_use]
    pub fn contains(&self, x: i32, y: i32) -> bool {
        let (dx, dy, r) = (x - self.centre.0, y - self.centre.1, self.radius);
        let in_box = dx.abs() <= r && dy.abs() <= r;
        match self.shape {
            0 => dx * dx + dy * dy <= r * r,
            1 => in_box,
            2 => in_box && dx.abs() * 2 <= dy + r,
            3 => in_box && in_polygon(&STAR, dx * 1000 / r, dy * 1000 / r),
            _ => in_box && (dx.abs() * 3 <= r || dy.abs() * 3 <= r),
        }
    }
}

/// A printed word or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Print {
    /// The characters, all of them in [`font::CHARACTERS`].
    pub text: String,
    /// Index into [`COLOURS`].
    pub colour: usize,
    /// Top left corner, in units.
    pub at: (i32, i32),
    /// Units to a font pixel.
    pub dot: i32,
}

impl Print {
    /// Distance from one character to the next, in units.
    #[must_use]
    pub fn pitch(&self) -> i32 {
        (font::COLUMNS + 1) * self.dot
    }

    /// The middle of character `index`, in units.
    #[must_use]
    pub fn middle(&self, index: usize) -> (i32, i32) {
        (self.at.0 + index as i32 * self.pitch() + font::COLUMNS * self.dot / 2, self.at.1 + font::ROWS * self.dot / 2)
    }
}

/// One bar of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The letter below the bar.
    pub label: char,
    /// 1..=9.
    pub value: i32,
    /// Index into [`COLOURS`].
    pub colour: usize,
    /// Left and right side, in units.
    pub sides: (i32, i32),
}

/// Where the bars of a chart stand, in units.
pub const CHART_FLOOR: i32 = 856;
/// Height of one unit of value, in drawing units.
pub const CHART_STEP: i32 = 84;

impl Bar {
    /// The box of the bar.
    #[must_use]
    pub fn bounds(&self) -> UnitBox {
        let top = CHART_FLOOR - self.value * CHART_STEP;
        [self.sides.0, top, self.sides.1, CHART_FLOOR]
    }

    fn label_print(&self) -> Print {
        let dot = 18;
        let x = (self.sides.0 + self.sides.1 - font::COLUMNS * dot) / 2;
        Print { text: self.label.to_string(), colour: 5, at: (x, CHART_FLOOR + 24), dot }
    }
}

/// What the picture shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Coloured shapes, in reading order of their cells.
    Shapes(Vec<Object>),
    /// Words or numbers, in reading order.
    Text(Vec<Print>),
    /// A bar chart with gridlines at 2, 4, 6 and 8.
    Chart(Vec<Bar>),
}

/// A complete description of one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// What it shows.
    pub content: Content,
    /// The colour behind everything.
    pub background: Rgb,
    /// Added to every channel of every colour, clamped: light changes a little.
    pub tint: [i8; 3],
}

/// A ground-truth mark of one thing in the picture: dense supervision for the training recipe.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mark {
    /// `colour * 6 + shape` for a shape, `colour * 6 + 5` for a bar, `36 + index in`
    /// [`font::CHARACTERS`] for a printed character.
    pub class: usize,
    /// Box of the shape or bar, or the middle of the character twice, in units.
    pub bounds: UnitBox,
}

impl Scene {
    /// A hash of what the scene means: which things, where roughly. Light, background, exact
    /// positions and sizes are left out, so scenes that differ only in those share a hash.
    #[must_use]
    pub fn content_hash(&self) -> u64 {
        let mut words: Vec<u64> = Vec::new();
        match &self.content {
            Content::Shapes(objects) => {
                for o in objects {
                    words.push((o.cell * 64 + o.colour * 8 + o.shape) as u64);
                }
            }
            Content::Text(prints) => {
                for p in prints {
                    words.extend(p.text.bytes().map(|b| 1000 + u64::from(b)));
                    words.push(2000);
                    // Two digits have few values: where they stand, and in what colour, counts too.
                    if p.text.len() == 1 {
                        let place = (p.at.0 / 342 + p.at.1 / 342 * 3) as u64;
                        words.push(3000 + place * 8 + p.colour as u64);
                    }
                }
            }
            Content::Chart(bars) => {
                for b in bars {
                    words.push(4000 + u64::from(u32::from(b.label)) * 16 + b.value as u64);
                }
            }
        }
        words.iter().fold(0x005c_e4e5, |h, &w| mix(h ^ mix(w.wrapping_add(1))))
    }

    fn paint(&self, colour: usize) -> Rgb {
        let mut rgb = COLOURS[colour].1;
        for (channel, tint) in rgb.iter_mut().zip(self.tint) {
            *channel = channel.saturating_add_signed(tint);
        }
        rgb
    }

    /// Draws the scene, `size` pixels wide and high.
    #[must_use]
    pub fn draw(&self, size: u32) -> RgbImage {
        let mut canvas = Canvas::new(size, self.background);
        let print = |canvas: &mut Canvas, p: &Print| {
            for (i, c) in p.text.chars().enumerate() {
                let x = p.at.0 + i as i32 * p.pitch();
                font::draw(canvas, self.paint(p.colour), c, x, p.at.1, p.dot);
            }
        };
        match &self.content {
            Content::Shapes(objects) => {
                for o in objects {
                    // One unit more than the shape: the far side is part of it.
                    let [l, t, r, b] = o.bounds(0);
                    canvas.fill(self.paint(o.colour), [l, t, r + 1, b + 1], |x, y| o.contains(x, y));
                }
            }
            Content::Text(prints) => prints.iter().for_each(|p| print(&mut canvas, p)),
            Content::Chart(bars) => {
                for line in [2, 4, 6, 8] {
                    let y = CHART_FLOOR - line * CHART_STEP;
                    canvas.rect([176; 3], [80, y - 4, UNITS - 16, y + 4]);
                    let digit = char::from(b'0' + line as u8);
                    font::draw(&mut canvas, [90; 3], digit, 16, y - 36, 10);
                }
                canvas.rect([60; 3], [80, CHART_FLOOR, UNITS - 16, CHART_FLOOR + 8]);
                for bar in bars {
                    canvas.rect(self.paint(bar.colour), bar.bounds());
                    print(&mut canvas, &bar.label_print());
                }
            }
        }
        canvas.into_image()
    }

    /// Everything in the scene, in words: the answer to [`crate::DESCRIBE_PROBLEM`].
    #[must_use]
    pub fn describe(&self) -> String {
        let parts: Vec<String> = match &self.content {
            Content::Shapes(objects) => objects
                .iter()
                .map(|o| {
                    let [l, t, r, b] = o.bounds(0).map(percent);
                    format!("{} {l},{t},{r},{b}", o.name())
                })
                .collect(),
            Content::Text(prints) => prints
                .iter()
                .map(|p| {
                    let (x, y) = p.middle(0);
                    format!("{} at {},{}", p.text, percent(x), percent(y))
                })
                .collect(),
            Content::Chart(bars) => {
                bars.iter().map(|b| format!("{} {} {}", b.label, b.value, COLOURS[b.colour].0)).collect()
            }
        };
        parts.join("; ") + "."
    }

    /// The marks of everything in the scene.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        let letters = |p: &Print| -> Vec<Mark> {
            let mark = |(i, c)| {
                let (x, y) = p.middle(i);
                font::class_of(c).map(|class| Mark { class: 36 + class, bounds: [x, y, x, y] })
            };
            p.text.chars().enumerate().filter_map(mark).collect()
        };
        match &self.content {
            Content::Shapes(objects) => {
                objects.iter().map(|o| Mark { class: o.colour * 6 + o.shape, bounds: o.bounds(0) }).collect()
            }
            Content::Text(prints) => prints.iter().flat_map(letters).collect(),
            Content::Chart(bars) => bars
                .iter()
                .flat_map(|b| {
                    let bar = Mark { class: b.colour * 6 + 5, bounds: b.bounds() };
                    std::iter::once(bar).chain(letters(&b.label_print()))
                })
                .collect(),
        }
    }
}

/// A coordinate as two digits, 00..=98 (or 100 at the far border): hundredths of the picture,
/// rounded to an even number. [`thousandths`] of the same coordinate is ten times this number.
#[must_use]
pub fn percent(unit: i32) -> String {
    format!("{:02}", thousandths(unit) / 10)
}

/// A coordinate in the 0..1000 grid of the answers, rounded to a multiple of 20.
///
/// A step of 20 is 2.6 pixels of a 128-pixel picture, about the precision of so small a model.
#[must_use]
pub fn thousandths(unit: i32) -> i32 {
    (unit * 1000 + UNITS * 10) / (UNITS * 20) * 20
}
