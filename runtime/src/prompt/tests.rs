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

/// Tokens 7 8, a picture of 6 places, tokens 9 7 8 9.
fn text_picture_text() -> EncodedPrompt {
    let image = ImageEmbedding { n_tokens: 6, grid_w: 3, grid_h: 2, width_embd: 0, data: vec![], encode_ms: 0.0 };
    let segments =
        vec![Segment::Tokens(vec![7, 8]), Segment::Image(Arc::new(image)), Segment::Tokens(vec![9, 7, 8, 9])];
    EncodedPrompt { segments }
}

#[test]
fn the_last_occurrence_counts_the_places_of_pictures_and_never_spans_one() {
    let prompt = text_picture_text();
    for (tokens, expected) in [
        (&[9, 7][..], Some(8)),
        (&[9], Some(11)),
        (&[7, 8], Some(9)),
        (&[8, 9], Some(10)),
        (&[7, 8, 9], Some(9)),
        (&[9, 7, 8, 9], Some(8)),
        (&[8, 9, 7], None),
        (&[9, 9], None),
        (&[7, 9], None),
        (&[0], None),
        (&[], None),
        (&[1; 30], None),
    ] {
        assert_eq!(prompt.last_occurrence(tokens), expected, "{tokens:?}");
    }
    assert_eq!(EncodedPrompt::from_tokens(vec![1, 2, 1, 2, 1, 2, 2]).last_occurrence(&[1, 2]), Some(4));
}

#[test]
fn a_split_keeps_every_place_and_cuts_no_picture() {
    let prompt = text_picture_text();
    for n in 0..=13 {
        let (head, tail) = prompt.split_at(n);
        // Inside the picture, which takes places 2 to 7, the cut moves behind it.
        let expected = if (3..8).contains(&n) { 8 } else { n.min(12) };
        assert_eq!((head.n_tokens(), tail.n_tokens()), (expected, 12 - expected), "{n}");
        assert_eq!(head.positions(), prompt.positions()[..expected], "{n}");
        assert!(head.segments.iter().chain(&tail.segments).all(|segment| segment.n_tokens() > 0), "{n}");
    }
    let (head, tail) = prompt.split_at(9);
    assert_eq!(head.segments.last(), Some(&Segment::Tokens(vec![9])));
    assert_eq!(tail.segments, [Segment::Tokens(vec![7, 8, 9])]);
}
