//! Boxes between the model's coordinates and the pixels of the picture that the caller gave.

use super::{Image, Orientation};

/// Qwen3-VL counts 0 to 1000 from the left and from the top edge, whatever the size of the picture.
const GRID: f64 = 1000.0;

/// In what a model counts the places of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BoxCoordinates {
    /// Thousandths of the sides, 0..=1000: Qwen2-VL and Qwen3-VL.
    #[default]
    Relative,
    /// Pixels of the picture as the model sees it: Qwen2.5-VL.
    Resized {
        /// Pixels per row after the resize.
        width: u32,
        /// Rows after the resize.
        height: u32,
    },
}

/// Maps boxes `[x1, y1, x2, y2]` of one picture.
///
/// Pixels are those of the upright picture, as [`Image`] has them and viewers show it; [`BoxMap::to_stored`] gives those
/// of the file or buffer behind it where EXIF turns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxMap {
    width: u32,
    height: u32,
    coordinates: BoxCoordinates,
    orientation: Orientation,
}

impl BoxMap {
    /// For an upright picture of `width` x `height` pixels, before any resize, in relative coordinates.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height, coordinates: BoxCoordinates::Relative, orientation: Orientation::Upright }
    }

    /// For `image` as it was decoded, in the coordinates of a model; see [`crate::Model::box_map`].
    pub fn of(image: &Image, coordinates: BoxCoordinates) -> Self {
        Self { width: image.width, height: image.height, coordinates, orientation: image.orientation }
    }

    /// From the model's coordinates to pixels, clamped to the picture.
    pub fn to_pixels(self, model: [f64; 4]) -> [f64; 4] {
        self.scale(model, self.range(), self.size())
    }

    /// From pixels to the model's coordinates, clamped to their range. Models write whole numbers: round them.
    pub fn to_model(self, pixels: [f64; 4]) -> [f64; 4] {
        self.scale(pixels, self.size(), self.range())
    }

    /// From the model's coordinates to pixels of the picture as it is stored, before EXIF's orientation; the corners come
    /// in ascending order.
    pub fn to_stored(self, model: [f64; 4]) -> [f64; 4] {
        let [x1, y1, x2, y2] = self.to_pixels(model);
        ascending([[x1, y1], [x2, y2]].map(|corner| self.orientation.to_stored(corner, self.size())))
    }

    /// The reverse of [`BoxMap::to_stored`].
    pub fn from_stored(self, stored: [f64; 4]) -> [f64; 4] {
        let [x1, y1, x2, y2] = stored;
        let corners = [[x1, y1], [x2, y2]].map(|corner| self.orientation.to_upright(corner, self.size()));
        self.to_model(ascending(corners))
    }

    /// Largest coordinates of the upright picture.
    fn size(self) -> [f64; 2] {
        // An empty picture maps everything to one place, not to NaN.
        [self.width, self.height].map(|side| f64::from(side.max(1)))
    }

    /// Largest coordinates of the model.
    fn range(self) -> [f64; 2] {
        match self.coordinates {
            BoxCoordinates::Relative => [GRID; 2],
            BoxCoordinates::Resized { width, height } => [width, height].map(|side| f64::from(side.max(1))),
        }
    }

    fn scale(self, corners: [f64; 4], from: [f64; 2], to: [f64; 2]) -> [f64; 4] {
        std::array::from_fn(|i| corners[i].clamp(0.0, from[i % 2]) / from[i % 2] * to[i % 2])
    }
}

fn ascending([[x1, y1], [x2, y2]]: [[f64; 2]; 2]) -> [f64; 4] {
    [x1.min(x2), y1.min(y2), x1.max(x2), y1.max(y2)]
}
