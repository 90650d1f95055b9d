use super::*;

fn picture(side: u32) -> Image {
    Image::from_rgb(side, side, vec![0; (side * side * 3) as usize]).expect("right size")
}

fn shape(prompt: &Prompt) -> String {
    let part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image(image) => format!("[{}]", image.width()),
    };
    prompt.messages[0].parts.iter().map(part).collect()
}

#[test]
fn marks_place_pictures_in_order() {
    struct Case {
        text: &'static str,
        n_images: u32,
        expected: Result<&'static str, &'static str>,
    }
    let cases = [
        Case { text: "What?", n_images: 0, expected: Ok("What?") },
        Case { text: "What?", n_images: 2, expected: Ok("[1][2]What?") },
        Case { text: "<image>What?", n_images: 1, expected: Ok("[1]What?") },
        Case { text: "a<image>b<image>", n_images: 2, expected: Ok("a[1]b[2]") },
        Case { text: "<image><image>", n_images: 1, expected: Err("got 2 marks, needed 1, one for each picture") },
        Case { text: "<image>", n_images: 0, expected: Err("got 1 marks, needed 0") },
    ];
    for Case { text, n_images, expected } in cases {
        let prompt = Prompt::user(text, (1..=n_images).map(picture).collect());
        match (prompt, expected) {
            (Ok(prompt), Ok(expected)) => assert_eq!(shape(&prompt), expected, "{text}"),
            (Err(error), Err(says)) => {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                assert!(error.to_string().contains(says), "{error}");
            }
            (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn positions_run_along_text_and_spread_over_pictures() {
    let image = ImageEmbedding { n_tokens: 6, grid_w: 3, grid_h: 2, width_embd: 0, data: vec![], encode_ms: 0.0 };
    let segments = vec![Segment::Tokens(vec![7, 8]), Segment::Image(Arc::new(image)), Segment::Tokens(vec![9])];
    let prompt = EncodedPrompt { segments };
    let picture = [[2, 2, 2, 0], [2, 2, 3, 0], [2, 2, 4, 0], [2, 3, 2, 0], [2, 3, 3, 0], [2, 3, 4, 0]];
    let mut expected = vec![[0, 0, 0, 0], [1, 1, 1, 0]];
    expected.extend(picture);
    expected.push([5, 5, 5, 0]);
    assert_eq!(prompt.positions(), expected);
    assert_eq!((prompt.n_tokens(), prompt.next_position()), (9, 6));
}
