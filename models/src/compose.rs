//! Random scenes of each kind, from a stream of random numbers.

use crate::canvas::UNITS;
use crate::rng::Rng;
use crate::scene::{Bar, COLOURS, Content, Object, Print, SHAPES, Scene};

/// The words that can be printed: a closed list, two to a picture.
pub const WORDS: [&str; 60] = [
    "OWL", "CAT", "DOG", "SUN", "MAP", "CAR", "BUS", "KEY", "CUP", "HAT", "BOX", "FOX", "PEN", "TEA", "ICE", "SKY",
    "SEA", "JAM", "BEE", "ANT", "EGG", "NUT", "OAK", "BED", "TOY", "ZOO", "JET", "VAN", "WEB", "HEN", "TREE", "FISH",
    "BIRD", "MOON", "RING", "LAMP", "DOOR", "BOOK", "MILK", "SALT", "ROAD", "SHIP", "WOLF", "BEAR", "FROG", "LEAF",
    "RAIN", "SNOW", "WIND", "FIRE", "GOLD", "IRON", "ROCK", "SAND", "ROSE", "CORN", "CAKE", "SOUP", "DESK", "COIN",
];

/// Side of a cell of the 3 x 3 grid, in units.
const CELL: i32 = UNITS / 3;

fn scene(rng: &mut Rng, content: Content) -> Scene {
    let grey = rng.between(225, 255);
    let background = [0; 3].map(|_| (grey + rng.between(-8, 0)) as u8);
    let tint = [0; 3].map(|_| rng.between(-14, 14) as i8);
    Scene { content, background, tint }
}

fn object(rng: &mut Rng, shape: usize, colour: usize, cell: usize) -> Object {
    let radius = rng.between(92, 150);
    // The shape stays inside its cell, a pixel away from the next one.
    let room = CELL / 2 - 8 - radius;
    let middle = |index: usize| index as i32 * CELL + CELL / 2;
    let centre = (middle(cell % 3) + rng.between(-room, room), middle(cell / 3) + rng.between(-room, room));
    Object { shape, colour, cell, centre, radius }
}

/// `n` different numbers below `below`, in random order.
fn distinct(rng: &mut Rng, n: usize, below: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..below).collect();
    rng.shuffle(&mut all);
    all.truncate(n);
    all
}

/// Shapes of which no two share a colour or a shape, two to four of them.
pub(crate) fn distinct_shapes(rng: &mut Rng, n: usize) -> Scene {
    let shapes = distinct(rng, n, SHAPES.len());
    let colours = distinct(rng, n, COLOURS.len());
    let mut cells = distinct(rng, n, 9);
    cells.sort_unstable();
    let objects = (0..n).map(|i| object(rng, shapes[i], colours[i], cells[i])).collect();
    scene(rng, Content::Shapes(objects))
}

/// Distinct shapes of which the first two named share a row or a column; returns their indices.
pub(crate) fn aligned_shapes(rng: &mut Rng, n: usize) -> (Scene, usize, usize) {
    loop {
        let made = distinct_shapes(rng, n);
        let Content::Shapes(objects) = &made.content else {
            continue;
        };
        let order = distinct(rng, n, n);
        for &a in &order {
            for &b in &order {
                let (ca, cb) = (objects[a].cell, objects[b].cell);
                if a != b && (ca % 3 == cb % 3 || ca / 3 == cb / 3) {
                    return (made, a, b);
                }
            }
        }
    }
}

/// Two to five shapes in which shapes and colours repeat, to be counted.
pub(crate) fn repeated_shapes(rng: &mut Rng) -> Scene {
    let n = rng.between(2, 5) as usize;
    // Few kinds: so that counts above one are common.
    let shapes = distinct(rng, 2, SHAPES.len());
    let colours = distinct(rng, 2, COLOURS.len());
    let mut cells = distinct(rng, n, 9);
    cells.sort_unstable();
    let objects = cells
        .into_iter()
        .map(|cell| {
            let (shape, colour) = (shapes[rng.below(2)], colours[rng.below(2)]);
            object(rng, shape, colour, cell)
        })
        .collect();
    scene(rng, Content::Shapes(objects))
}

/// Two digits 1..=9, one in the upper and one in the lower half.
pub(crate) fn two_digits(rng: &mut Rng) -> Scene {
    let prints = (0..2)
        .map(|half| {
            let dot = rng.between(26, 36);
            let text = char::from(b'0' + rng.between(1, 9) as u8).to_string();
            let at =
                (rng.between(24, UNITS - 24 - 5 * dot), half * UNITS / 2 + rng.between(24, UNITS / 2 - 24 - 7 * dot));
            Print { text, colour: rng.below(COLOURS.len()), at, dot }
        })
        .collect();
    scene(rng, Content::Text(prints))
}

/// Two different words of [`WORDS`], one above the other.
pub(crate) fn two_words(rng: &mut Rng) -> Scene {
    let prints = distinct(rng, 2, WORDS.len())
        .into_iter()
        .enumerate()
        .map(|(half, word)| {
            let dot = rng.between(23, 28);
            let text = WORDS[word].to_owned();
            let width = text.len() as i32 * 6 * dot;
            let at = (
                rng.between(24, UNITS - 24 - width),
                half as i32 * UNITS / 2 + rng.between(64, UNITS / 2 - 64 - 7 * dot),
            );
            Print { text, colour: rng.below(COLOURS.len()), at, dot }
        })
        .collect();
    scene(rng, Content::Text(prints))
}

/// Three or four bars with consecutive letters from A..=F.
pub(crate) fn bars(rng: &mut Rng) -> Scene {
    let n = rng.between(3, 4) as usize;
    let first = rng.below(7 - n) as u8;
    let colours = distinct(rng, n, COLOURS.len());
    let (left, right) = (96, UNITS - 32);
    let pitch = (right - left) / n as i32;
    let bars = (0..n)
        .map(|i| {
            let width = rng.between(100, 150);
            let middle = left + pitch * i as i32 + pitch / 2;
            Bar {
                label: char::from(b'A' + first + i as u8),
                value: rng.between(1, 9),
                colour: colours[i],
                sides: (middle - width / 2, middle + width / 2),
            }
        })
        .collect();
    scene(rng, Content::Chart(bars))
}
