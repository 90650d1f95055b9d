//! Pictures reach the model with the very bytes and sizes that Hugging Face's processor gives them.

mod common;

use common::golden;
use owlet_runtime::{Image, ImageBudget};

#[test]
fn resized_pictures_equal_those_of_hugging_face_byte_for_byte() {
    let Some(folder) = golden::shared("preprocess") else { return };
    let table = golden::json(&folder.join("preprocess.json"));
    let factor = table["factor"].as_u64().expect("a number") as u32;
    let cases = table["images"].as_array().expect("a list");
    assert!(!cases.is_empty());
    for case in cases {
        let number = |key: &str| case[key].as_u64().expect("a number");
        let file = |key: &str| folder.parent().expect("has a parent").join(case[key].as_str().expect("a path"));
        let budget = ImageBudget { factor, min_pixels: number("min_pixels"), max_pixels: number("max_pixels") };
        let source = Image::open(file("image")).expect("opens");
        let resized = source.resize_for(&budget).expect("resizes");
        let size = (u64::from(resized.width()), u64::from(resized.height()));
        assert_eq!(size, (number("resized_width"), number("resized_height")), "{case}");
        let expected = Image::open(file("resized_rgb_png")).expect("opens");
        assert!(resized.rgb() == expected.rgb(), "{case}");
        let n_tokens = budget.tokens_for(source.width(), source.height()).expect("fits");
        assert_eq!(n_tokens as u64, number("n_image_tokens"), "{case}");
    }
}

#[test]
fn sizes_equal_those_of_smart_resize() {
    let Some(folder) = golden::shared("preprocess") else { return };
    let table = golden::json(&folder.join("preprocess.json"));
    let factor = table["factor"].as_u64().expect("a number") as u32;
    for row in table["smart_resize"].as_array().expect("a list") {
        let number = |column: usize| row[column].as_u64();
        let [height, width, min_pixels, max_pixels] = [0, 1, 2, 3].map(|column| number(column).expect("a number"));
        let budget = ImageBudget { factor, min_pixels, max_pixels };
        let size = budget.size_for(width as u32, height as u32).ok();
        let expected = number(4).zip(number(5)).map(|(h, w)| (w as u32, h as u32));
        assert_eq!(size, expected, "{row}");
    }
}
