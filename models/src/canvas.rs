//! Integer-only drawing with 4x4 supersampling.
//!
//! All geometry is in units: the picture is [`UNITS`] x [`UNITS`] units whatever its size in
//! pixels, so one scene can be drawn at any size. No floating point: the bytes are the same on
//! every platform.

use image::{Rgb, RgbImage};

/// Width and height of every picture in drawing units (8 to a pixel at 128 pixels).
pub const UNITS: i32 = 1024;

/// A colour as red, green, blue.
pub type Colour = [u8; 3];

/// A box in units: left, top, right, bottom.
pub type UnitBox = [i32; 4];

/// A picture under construction.
pub struct Canvas {
    image: RgbImage,
}

impl Canvas {
    /// A square picture of `size` pixels in one colour.
    #[must_use]
    pub fn new(size: u32, background: Colour) -> Self {
        Self { image: RgbImage::from_pixel(size, size, Rgb(background)) }
    }

    /// Fills the points (in units) of `bounds` for which `inside` holds, with soft edges.
    pub fn fill(&mut self, colour: Colour, bounds: UnitBox, inside: impl Fn(i32, i32) -> bool) {
        const SAMPLES: i32 = 4;
        let size = self.image.width() as i32;
        let first = |unit: i32| (unit * size / UNITS - 1).clamp(0, size);
        let last = |unit: i32| (unit * size / UNITS + 2).clamp(0, size);
        // The middle of sub-pixel `index`, in units.
        let unit = |index: i32| (2 * index + 1) * UNITS / (2 * SAMPLES * size);
        for y in first(bounds[1])..last(bounds[3]) {
            for x in first(bounds[0])..last(bounds[2]) {
                let mut hits = 0;
                for sy in 0..SAMPLES {
                    for sx in 0..SAMPLES {
                        let (ux, uy) = (unit(x * SAMPLES + sx), unit(y * SAMPLES + sy));
                        let in_bounds = (bounds[0]..bounds[2]).contains(&ux) && (bounds[1]..bounds[3]).contains(&uy);
                        hits += i32::from(in_bounds && inside(ux, uy));
                    }
                }
                if hits > 0 {
                    let pixel = self.image.get_pixel_mut(x as u32, y as u32);
                    for (old, new) in pixel.0.iter_mut().zip(colour) {
                        let total = SAMPLES * SAMPLES;
                        let mixed = i32::from(*old) * (total - hits) + i32::from(new) * hits;
                        *old = ((mixed + total / 2) / total) as u8;
                    }
                }
            }
        }
    }

    /// Fills a rectangle.
    pub fn rect(&mut self, colour: Colour, bounds: UnitBox) {
        self.fill(colour, bounds, |_, _| true);
    }

    /// The finished picture.
    #[must_use]
    pub fn into_image(self) -> RgbImage {
        self.image
    }
}

/// Whether a point lies in a polygon (even-odd rule).
#[must_use]
pub fn in_polygon(vertices: &[(i32, i32)], x: i32, y: i32) -> bool {
    let mut inside = false;
    let mut previous = vertices.len().wrapping_sub(1);
    for (i, &(xi, yi)) in vertices.iter().enumerate() {
        let (xj, yj) = vertices[previous];
        if (yi > y) != (yj > y) {
            // x < xi + (xj - xi) * (y - yi) / (yj - yi), without the division.
            let left = i64::from(x - xi) * i64::from(yj - yi);
            let right = i64::from(xj - xi) * i64::from(y - yi);
            if (left < right) == (yj > yi) {
                inside = !inside;
            }
        }
        previous = i;
    }
    inside
}
