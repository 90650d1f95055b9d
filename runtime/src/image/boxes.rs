//! Boxes between the model's grid and the pixels of the picture that the caller gave.

/// Qwen3-VL counts 0 to 1000 from the left and from the top edge, whatever the size of the picture.
const GRID: f64 = 1000.0;

/// Maps boxes `[x1, y1, x2, y2]` of one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxMap {
    width: u32,
    height: u32,
}

impl BoxMap {
    /// For a picture of `width` x `height` pixels, before any resize.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// From the model's 0..=1000 grid to pixels, clamped to the picture.
    pub fn to_pixels(self, model: [f64; 4]) -> [f64; 4] {
        let [x1, y1, x2, y2] = model.map(|value| value.clamp(0.0, GRID) / GRID);
        let (w, h) = (f64::from(self.width), f64::from(self.height));
        [x1 * w, y1 * h, x2 * w, y2 * h]
    }

    /// From pixels to the model's grid, clamped to it.
    pub fn to_model(self, pixels: [f64; 4]) -> [f64; 4] {
        let (w, h) = (f64::from(self.width.max(1)), f64::from(self.height.max(1)));
        let [x1, y1, x2, y2] = pixels;
        [x1 / w, y1 / h, x2 / w, y2 / h].map(|share| (share * GRID).clamp(0.0, GRID))
    }
}
