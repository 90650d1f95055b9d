//! What the pictures of a request get: limits in pixels and tokens, shared totals, and warnings.

use owlet_runtime::{ErrorKind, GROUNDING_TOKENS, ImageBudget, ImageOptions, ImagePlan, ImageWarning};
use proptest::prelude::*;

const MODEL: ImageBudget = ImageBudget { factor: 32, min_pixels: 65_536, max_pixels: 16_777_216 };

#[test]
fn limits_of_a_request_take_the_place_of_the_models() {
    let none = ImageOptions::default();
    struct Case {
        name: &'static str,
        options: ImageOptions,
        expected: Result<(u64, u64), ErrorKind>,
    }
    let cases = [
        Case { name: "none", options: none, expected: Ok((65_536, 16_777_216)) },
        Case {
            name: "pixels",
            options: ImageOptions { min_pixels: Some(4096), max_pixels: Some(8192), ..none },
            expected: Ok((4096, 8192)),
        },
        Case {
            name: "tokens",
            options: ImageOptions { min_tokens: Some(100), max_tokens: Some(200), ..none },
            expected: Ok((102_400, 204_800)),
        },
        Case {
            name: "most below the model's fewest",
            options: ImageOptions { max_tokens: Some(16), ..none },
            expected: Ok((16_384, 16_384)),
        },
        Case {
            name: "fewest above the model's most",
            options: ImageOptions { min_tokens: Some(20_000), ..none },
            expected: Ok((20_480_000, 20_480_000)),
        },
        Case {
            name: "contradiction",
            options: ImageOptions { min_tokens: Some(2), max_tokens: Some(1), ..none },
            expected: Err(ErrorKind::InvalidInput),
        },
        Case {
            name: "twice",
            options: ImageOptions { min_tokens: Some(2), min_pixels: Some(4096), ..none },
            expected: Err(ErrorKind::InvalidInput),
        },
        Case {
            name: "nothing",
            options: ImageOptions { max_tokens: Some(0), ..none },
            expected: Err(ErrorKind::InvalidInput),
        },
        Case {
            name: "beyond numbers",
            options: ImageOptions { max_tokens: Some(usize::MAX), ..none },
            expected: Ok((65_536, u64::MAX)),
        },
    ];
    for Case { name, options, expected } in cases {
        let plan = ImagePlan::new(MODEL, &[(640, 480)], &options);
        let got = plan.map(|plan| (plan.budget.min_pixels, plan.budget.max_pixels)).map_err(|error| error.kind());
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn boxes_of_small_pictures_are_warned_of_when_they_are_asked_for() {
    let sizes = [(1024, 1024), (640, 480), (1024, 992)];
    let quiet = ImagePlan::new(MODEL, &sizes, &ImageOptions::default()).expect("fits");
    assert_eq!((quiet.n_tokens, quiet.warnings), (vec![1024, 300, 992], vec![]));
    let asked = ImageOptions { grounding: true, ..ImageOptions::default() };
    let plan = ImagePlan::new(MODEL, &sizes, &asked).expect("fits");
    let warning =
        |picture, n_tokens| ImageWarning::FewTokensForGrounding { picture, n_tokens, min_pixels: 1024 * 1024 };
    assert_eq!(plan.warnings, [warning(1, 300), warning(2, 992)]);
    assert!(plan.warnings[0].to_string().contains("picture 2 as 300 tokens, 1024 (at least 1048576 pixels)"));
    // Following the advice silences it.
    let advised = ImageOptions { min_pixels: Some(1024 * 1024), ..asked };
    let plan = ImagePlan::new(MODEL, &sizes, &advised).expect("fits");
    assert!(plan.warnings.is_empty() && plan.n_tokens.iter().all(|&n| n >= GROUNDING_TOKENS), "{plan:?}");
}

#[test]
fn pictures_share_a_total_without_starving_the_small_ones() {
    let sizes = [(4000, 3000), (256, 256), (3000, 4000)];
    let total = |max_total_tokens| {
        let options = ImageOptions { max_total_tokens: Some(max_total_tokens), ..ImageOptions::default() };
        ImagePlan::new(MODEL, &sizes, &options)
    };
    let plan = total(1024).expect("fits");
    assert_eq!(plan.n_tokens[1], 64, "a small picture stays as it is");
    assert_eq!(plan.n_tokens[0], plan.n_tokens[2]);
    let sum: usize = plan.n_tokens.iter().sum();
    assert!(sum <= 1024 && sum > 900, "{plan:?}");
    assert_eq!(total(usize::MAX).expect("fits").budget, MODEL);
    let error = total(150).expect_err("64 for each do not fit");
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("3 pictures"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shared_total_holds_and_a_larger_budget_would_break_it(
        sizes in prop::collection::vec((100u32..4000, 100u32..4000), 1..6),
        max_tokens in 1usize..8000,
    ) {
        let sum = |budget: ImageBudget| -> usize {
            sizes.iter().map(|&(w, h)| budget.tokens_for(w, h).expect("good sides")).sum()
        };
        match MODEL.shared(&sizes, max_tokens) {
            Ok(budget) => {
                prop_assert!(sum(budget) <= max_tokens);
                let larger = ImageBudget { max_pixels: budget.max_pixels + 1, ..budget };
                let is_largest = budget == MODEL || sum(larger) > max_tokens;
                prop_assert!(is_largest);
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Limit);
                let least = ImageBudget { max_pixels: MODEL.min_pixels, ..MODEL };
                prop_assert!(sum(least) > max_tokens);
            }
        }
    }
}
