//! How a stored picture must be turned to be seen upright: the eight orientations of EXIF.

/// The orientation tag of EXIF (0x0112); the number in brackets is its value. Rotations are clockwise, from the stored
/// picture to the upright one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Orientation {
    /// As stored (1).
    #[default]
    Upright,
    /// Mirrored left to right (2).
    FlipHorizontal,
    /// Turned by 180 degrees (3).
    Rotate180,
    /// Mirrored top to bottom (4).
    FlipVertical,
    /// Mirrored along the diagonal from the top left corner (5).
    Transpose,
    /// Turned by 90 degrees (6).
    Rotate90,
    /// Mirrored along the diagonal from the top right corner (7).
    Transverse,
    /// Turned by 270 degrees (8).
    Rotate270,
}

/// What makes up an orientation: the upright picture is the stored one with its axes swapped, then mirrored.
struct Steps {
    swap: bool,
    flip_x: bool,
    flip_y: bool,
}

/// Side of the tiles in which pictures are turned: a row of the result is a column of the source.
const TILE: usize = 32;

impl Orientation {
    /// The orientation of an EXIF value, `None` outside of 1..=8.
    pub fn from_exif(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Upright,
            2 => Self::FlipHorizontal,
            3 => Self::Rotate180,
            4 => Self::FlipVertical,
            5 => Self::Transpose,
            6 => Self::Rotate90,
            7 => Self::Transverse,
            8 => Self::Rotate270,
            _ => return None,
        })
    }

    /// Whether width and height change places.
    pub fn swaps_sides(self) -> bool {
        self.steps().swap
    }

    /// Size of the upright picture from that of the stored one, and the other way round.
    pub fn size(self, width: u32, height: u32) -> (u32, u32) {
        if self.swaps_sides() { (height, width) } else { (width, height) }
    }

    fn steps(self) -> Steps {
        let (swap, flip_x, flip_y) = match self {
            Self::Upright => (false, false, false),
            Self::FlipHorizontal => (false, true, false),
            Self::Rotate180 => (false, true, true),
            Self::FlipVertical => (false, false, true),
            Self::Transpose => (true, false, false),
            Self::Rotate90 => (true, true, false),
            Self::Transverse => (true, true, true),
            Self::Rotate270 => (true, false, true),
        };
        Steps { swap, flip_x, flip_y }
    }

    /// The place in the stored picture of a point of the upright one, whose size is `[width, height]`.
    pub(super) fn to_stored(self, [x, y]: [f64; 2], [width, height]: [f64; 2]) -> [f64; 2] {
        let Steps { swap, flip_x, flip_y } = self.steps();
        let x = if flip_x { width - x } else { x };
        let y = if flip_y { height - y } else { y };
        if swap { [y, x] } else { [x, y] }
    }

    /// The reverse of [`Orientation::to_stored`], with the size of the upright picture too.
    pub(super) fn to_upright(self, [x, y]: [f64; 2], [width, height]: [f64; 2]) -> [f64; 2] {
        let Steps { swap, flip_x, flip_y } = self.steps();
        let (x, y) = if swap { (y, x) } else { (x, y) };
        [if flip_x { width - x } else { x }, if flip_y { height - y } else { y }]
    }

    /// The pixels of the upright picture; `width` and `height` are those of the stored one.
    pub(super) fn turn(self, stored: Vec<u8>, width: u32, height: u32) -> Vec<u8> {
        if self == Self::Upright {
            return stored;
        }
        let Steps { swap, flip_x, flip_y } = self.steps();
        let stored_width = width as usize;
        let (width, height) = self.size(width, height);
        let (width, height) = (width as usize, height as usize);
        let (pixels, _) = stored.as_chunks::<3>();
        let mut upright = vec![0; stored.len()];
        let (turned, _) = upright.as_chunks_mut::<3>();
        for top in (0..height).step_by(TILE) {
            for left in (0..width).step_by(TILE) {
                for y in top..height.min(top + TILE) {
                    for x in left..width.min(left + TILE) {
                        let column = if flip_x { width - 1 - x } else { x };
                        let row = if flip_y { height - 1 - y } else { y };
                        let (column, row) = if swap { (row, column) } else { (column, row) };
                        turned[y * width + x] = pixels[row * stored_width + column];
                    }
                }
            }
        }
        upright
    }
}
