//! Boxes of the model and pixels of the picture, there and back.

use owlet_runtime::{Alpha, BoxCoordinates, BoxMap, Image, Orientation, PixelFormat, RawImage};
use proptest::prelude::*;

#[test]
fn boxes_map_both_ways_and_stay_inside() {
    let map = BoxMap::new(640, 480);
    assert_eq!(map.to_pixels([0.0, 250.0, 500.0, 1000.0]), [0.0, 120.0, 320.0, 480.0]);
    assert_eq!(map.to_model([0.0, 120.0, 320.0, 480.0]), [0.0, 250.0, 500.0, 1000.0]);
    assert_eq!(map.to_pixels([-5.0, 0.0, 2000.0, 1000.0]), [0.0, 0.0, 640.0, 480.0]);
}

fn picture(width: u32, height: u32, orientation: Orientation) -> Image {
    let data = vec![0; (width * height) as usize];
    let (format, is_premultiplied) = (PixelFormat::Gray8, false);
    let raw = RawImage { data: &data, width, height, stride: width as usize, format, is_premultiplied, orientation };
    Image::from_raw(&raw, Alpha::Drop).expect("right size")
}

#[test]
fn boxes_in_pixels_of_the_resized_picture_are_scaled_back() {
    let image = picture(100, 75, Orientation::Upright);
    let map = BoxMap::of(&image, BoxCoordinates::Resized { width: 280, height: 224 });
    assert_eq!(map.to_pixels([28.0, 112.0, 280.0, 500.0]), [10.0, 37.5, 100.0, 75.0]);
    assert_eq!(map.to_model([10.0, 37.5, 100.0, 75.0]), [28.0, 112.0, 280.0, 224.0]);
}

#[test]
fn boxes_follow_the_orientation_into_the_stored_picture() {
    // A stored picture of 40 x 20 whose 10 x 5 pixels in the top left corner are marked.
    let marked = [0.0, 0.0, 10.0, 5.0];
    for (value, upright) in [
        (1, [0.0, 0.0, 250.0, 250.0]),
        (2, [750.0, 0.0, 1000.0, 250.0]),
        (3, [750.0, 750.0, 1000.0, 1000.0]),
        (4, [0.0, 750.0, 250.0, 1000.0]),
        (5, [0.0, 0.0, 250.0, 250.0]),
        (6, [750.0, 0.0, 1000.0, 250.0]),
        (7, [750.0, 750.0, 1000.0, 1000.0]),
        (8, [0.0, 750.0, 250.0, 1000.0]),
    ] {
        let image = picture(40, 20, Orientation::from_exif(value).expect("in range"));
        let map = BoxMap::of(&image, BoxCoordinates::Relative);
        assert_eq!(map.to_stored(upright), marked, "{value}");
        assert_eq!(map.from_stored(marked), upright, "{value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_round_trip_is_within_rounding(
        (width, height) in (1u32..3000, 1u32..40),
        value in 1u8..=8,
        resized in prop::option::of((1u32..200, 1u32..200)),
        shares in prop::array::uniform4(0.0f64..=1.0),
    ) {
        let image = picture(width, height, Orientation::from_exif(value).expect("in range"));
        let coordinates = resized.map_or(BoxCoordinates::Relative, |(w, h)| {
            BoxCoordinates::Resized { width: 28 * w, height: 28 * h }
        });
        let map = BoxMap::of(&image, coordinates);
        let [left, top, right, bottom] = shares;
        let (left, right, top, bottom) = (left.min(right), left.max(right), top.min(bottom), top.max(bottom));
        let (w, h) = (f64::from(image.width()), f64::from(image.height()));
        let pixels = [left * w, top * h, right * w, bottom * h];
        let (range_x, range_y) = resized.map_or((1000.0, 1000.0), |(w, h)| (f64::from(28 * w), f64::from(28 * h)));
        // The model writes whole numbers, so a corner moves by half a step at most.
        let written = map.to_model(pixels).map(f64::round);
        let back = map.to_pixels(written);
        let step = [w / range_x, h / range_y, w / range_x, h / range_y];
        for i in 0..4 {
            prop_assert!((back[i] - pixels[i]).abs() <= step[i] / 2.0 + 1e-9 * w.max(h), "{:?} {:?}", pixels, back);
        }
        let stored = map.from_stored(map.to_stored(written));
        for i in 0..4 {
            prop_assert!((stored[i] - written[i]).abs() < 1e-6, "{:?} {:?}", stored, written);
        }
        // In the stored picture, whose sides are the other way round for half of the orientations.
        let (stored_w, stored_h) = image.orientation().size(image.width(), image.height());
        let corners = map.to_stored(written);
        prop_assert!(corners[2] <= f64::from(stored_w) + 1e-6 && corners[3] <= f64::from(stored_h) + 1e-6);
        prop_assert!(corners[0] <= corners[2] && corners[1] <= corners[3]);
    }
}
