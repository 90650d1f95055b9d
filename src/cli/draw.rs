//! Draws a box on a picture, for `owlet run --draw`.

use std::{io::Write as _, path::Path};

use image::{ImageEncoder, codecs::png::PngEncoder};
use owlet::{AtomicFile, Error, ErrorKind, Image};

use super::failure::Result;

const COLOUR: [u8; 3] = [230, 30, 60];

/// Writes `picture` with the outline of `corners` (`[x1, y1, x2, y2]` in its pixels) as a PNG file.
pub(crate) fn draw_box(picture: &Image, corners: [f64; 4], path: &Path) -> Result<()> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut rgb = picture.rgb().to_vec();
    let [x1, y1, x2, y2] = corners;
    let edge = |value: f64, size: usize| (value.round() as usize).min(size - 1);
    let (left, right) = (edge(x1.min(x2), width), edge(x1.max(x2), width));
    let (top, bottom) = (edge(y1.min(y2), height), edge(y1.max(y2), height));
    // Thick enough to see when a photo is shown reduced.
    let thickness = (width.max(height) / 250).max(2);
    for y in top..=bottom {
        for x in left..=right {
            let inset = (x - left).min(right - x).min(y - top).min(bottom - y);
            if inset < thickness {
                let at = 3 * (y * width + x);
                rgb[at..at + 3].copy_from_slice(&COLOUR);
            }
        }
    }
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&rgb, picture.width(), picture.height(), image::ExtendedColorType::Rgb8)
        .map_err(|source| Error::new(ErrorKind::Internal, "cannot encode PNG").source(source))?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(&png).map_err(|source| Error::io("cannot write picture", path, source))?;
    Ok(file.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outline_is_drawn_and_the_inside_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("drawn.png");
        let picture = Image::from_rgb(20, 10, vec![0; 600]).expect("600 bytes are 20 x 10 pixels");
        for (corners, name) in [([0.0, 0.0, 20.0, 10.0], "in order"), ([20.0, 10.0, 0.0, 0.0], "swapped")] {
            draw_box(&picture, corners, &path).expect("the folder is writable");
            let drawn = Image::open(&path).expect("a PNG file");
            let pixel = |x: usize, y: usize| &drawn.rgb()[3 * (y * 20 + x)..][..3];
            assert_eq!((pixel(0, 0), pixel(19, 9), pixel(10, 5)), (&COLOUR[..], &COLOUR[..], &[0; 3][..]), "{name}");
        }
    }
}
