use super::*;

fn candidate(text: &str, logprob: f64) -> Candidate {
    Candidate { answer: text.to_owned(), response: text.to_owned(), logprob, n_tokens: 4, is_complete: true }
}

/// Samples that are equally probable.
fn candidates(texts: &[&str]) -> Vec<Candidate> {
    texts.iter().map(|text| candidate(text, -1.0)).collect()
}

/// Winner, its weight to three digits, and whether each sample is well-formed.
fn outcome(verdict: &Verdict) -> (usize, f64, Vec<bool>) {
    let is_well_formed = verdict.ballots.iter().map(|ballot| ballot.is_well_formed).collect();
    assert_eq!(verdict.support, verdict.ballots[verdict.winner].weight);
    (verdict.winner, (verdict.support * 1e3).round() / 1e3, is_well_formed)
}

#[test]
fn the_majority_is_over_answers_that_mean_the_same() {
    use ProblemType::*;
    let animals: &[&str] = &["A. cat", "B. dog"];
    for (problem, options, texts, winner, support, n_well_formed) in [
        (MultipleChoice, animals, &["A", "(b)", "The answer is B", "dog"][..], 1, 0.75, 4),
        (MultipleChoice, animals, &["A", "E", "E", "bird"], 0, 0.25, 1),
        (MultipleChoice, &[][..], &["yes", "No.", "**no**"], 1, 0.667, 3),
        (MultipleChoice, &[], &["B, A", "A and B", "A"], 0, 0.667, 3),
        (Numerical, &[], &["3", "4.0", "4", "four"], 1, 0.5, 3),
        (Numerical, &[], &["1,000", "1000.0", "7", "$7"], 0, 0.5, 4),
        (Numerical, &[], &["0.001", "0.002", "2e-3"], 1, 0.667, 3),
        (Math, &[], &["x+1", "\\frac{1}{2}", "0.5", "1/2"], 1, 0.75, 4),
        (Math, &[], &["no idea", "(x+1)^2", "x^2+2x+1"], 1, 0.667, 3),
        (OpenEnded, &[], &["A dog.", "the  Cat", "The cat.", "..."], 1, 0.5, 3),
        (Ocr, &[], &["Exit", "EXIT  NOW", "EXIT NOW", "exit now"], 1, 0.5, 4),
        (SpatialGrounding, &[], &["{\"boxes\": [1,1,2,2]}", "[1,1,3,3]", "[[1,1,3,3]]"], 1, 0.667, 3),
        // Thoughts that never ended.
        (Numerical, &[], &["", "\n 3 \n"], 1, 0.5, 1),
    ] {
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        let candidates = candidates(texts);
        let verdict = Poll::new(problem, &options, &candidates).expect("has samples").majority();
        let (got, weight, is_well_formed) = outcome(&verdict);
        assert_eq!((got, weight), (winner, support), "{texts:?}");
        assert_eq!(is_well_formed.iter().filter(|&&is| is).count(), n_well_formed, "{texts:?}");
    }
}

#[test]
fn ties_go_to_the_sum_of_log_probabilities_and_then_to_the_earlier() {
    for (samples, winner) in [
        (&[("1", -3.0), ("2", -2.0), ("1", -1.0), ("2", -1.5)][..], 3),
        (&[("1", -3.0), ("2", -2.0), ("1", -1.0), ("2", -2.5)], 2),
        (&[("1", -1.0), ("2", -1.0)], 0),
        (&[("2", -1.0), ("1", f64::NEG_INFINITY), ("1", -9.0)], 2),
    ] {
        let candidates: Vec<_> = samples.iter().map(|&(text, logprob)| candidate(text, logprob)).collect();
        let poll = Poll::new(ProblemType::Numerical, &[], &candidates).expect("has samples");
        assert_eq!(poll.majority().winner, winner, "{samples:?}");
    }
}

#[test]
fn minimum_risk_takes_the_sample_that_agrees_most() {
    use ProblemType::*;
    for (problem, texts, winner, support) in [
        // Overlaps with the first: 81/119 of the second (shifted by a tenth each way), none of the third.
        (SpatialGrounding, &["[0,0,10,10]", "[1,1,11,11]", "[50,50,60,60]"][..], 0, 0.34),
        // The middle one of three overlaps with both neighbours.
        (SpatialGrounding, &["[0,0,10,10]", "[6,0,16,10]", "[3,0,13,10]"], 2, 0.538),
        // Boxes without area and texts agree with nothing, not even with each other.
        (SpatialGrounding, &["none", "none", "[3,3,1,1]", "[0,0,1,1]"], 3, 0.0),
        (Numerical, &["1", "2", "2"], 1, 0.5),
        (MultipleChoice, &["A", "B", "b"], 1, 0.5),
        (Regression, &["100", "10", "101"], 0, 0.5),
        (Ocr, &["a b c d", "a b c x", "q r s t"], 0, 0.375),
        // ROUGE-1, -2, -L: 4/5, 2/3, 4/5 with the second, 1/3, 0, 1/3 with the third.
        (OpenEnded, &["a red bus", "red bus", "a blue car"], 0, 0.489),
        (Numerical, &["7"], 0, 1.0),
        (Numerical, &["seven"], 0, 0.0),
    ] {
        let candidates = candidates(texts);
        let verdict = Poll::new(problem, &[], &candidates).expect("has samples").minimum_risk();
        let (got, weight, _) = outcome(&verdict);
        assert_eq!((got, weight), (winner, support), "{texts:?}: {verdict:?}");
    }
}

#[test]
fn the_best_has_the_highest_score_of_the_well_formed() {
    let mut candidates = candidates(&["1", "2", "3", "many"]);
    candidates[2].is_complete = false;
    let poll = Poll::new(ProblemType::Numerical, &[], &candidates).expect("has samples");
    for (scores, winner) in [
        ([0.1, 0.2, 0.9, 0.9], 1),
        ([f64::NAN, -5.0, 1.0, 1.0], 1),
        ([0.2, 0.2, 0.9, 0.9], 0),
        ([f64::NAN, f64::NAN, 0.0, 0.0], 0),
    ] {
        let score =
            |candidate: &Candidate| scores[candidates.iter().position(|other| other == candidate).expect("one")];
        assert_eq!(poll.best(score).winner, winner, "{scores:?}");
    }
    let candidates = [candidate("1", -8.0), Candidate { n_tokens: 16, ..candidate("2", -9.0) }];
    let poll = Poll::new(ProblemType::Numerical, &[], &candidates).expect("has samples");
    assert_eq!(poll.by(VoteRule::Best).winner, 1, "by the mean over tokens");
}

#[test]
fn malformed_samples_win_only_where_all_are() {
    let cut = Candidate { is_complete: false, ..candidate("[0,0,10,10]", 0.0) };
    let bad = [candidate("nowhere", -0.1), cut, candidate("", 0.0)];
    let mut good = bad.to_vec();
    good.push(candidate("[50,50,60,60]", -100.0));
    for rule in [VoteRule::Majority, VoteRule::MinimumRisk, VoteRule::Best] {
        let poll = |candidates: &[Candidate]| {
            Poll::new(ProblemType::SpatialGrounding, &[], candidates).expect("has samples").by(rule).winner
        };
        assert_eq!(poll(&good), 3, "{rule:?}");
        assert_eq!(poll(&bad), 1, "{rule:?}: the first of the most probable");
    }
    assert!(Poll::new(ProblemType::Ocr, &[], &[]).is_err());
}

#[test]
fn sets_of_boxes_are_matched_one_to_one() {
    let set = |text: &str| parse_boxes(text).unwrap_or_default();
    for (left, right, expected) in [
        ("[[0,0,10,10],[20,0,30,10]]", "[[20,0,30,10],[0,0,10,10]]", 1.0),
        ("[[0,0,10,10],[20,0,30,10]]", "[[0,0,10,10]]", 2.0 / 3.0),
        // The box between is matched with the one that it overlaps more.
        ("[[0,0,10,10],[8,0,18,10]]", "[[6,0,16,10]]", 2.0 * (80.0 / 120.0) / 3.0),
        ("[{\"bbox_2d\": [0,0,1,1], \"label\": \"Cat\"}]", "[{\"bbox_2d\": [0,0,1,1], \"label\": \"cat \"}]", 1.0),
        ("[{\"bbox_2d\": [0,0,1,1], \"label\": \"cat\"}]", "[{\"bbox_2d\": [0,0,1,1], \"label\": \"dog\"}]", 0.0),
        ("[{\"bbox_2d\": [0,0,1,1], \"label\": \"cat\"}]", "{\"boxes\": [\"0\", 0, 1, 1]}", 1.0),
        ("```json\n{\"boxes\": [[0,0,1,1],[2,2,3,3]]}\n```", "[[2,2,3,3],[0,0,1,1]]", 1.0),
    ] {
        let (left, right) = (set(left), set(right));
        assert!(!left.is_empty() && !right.is_empty());
        for overlap in [boxes_overlap(&left, &right), boxes_overlap(&right, &left)] {
            assert!((overlap - expected).abs() < 1e-12, "{left:?} {right:?}: {overlap}");
        }
    }
    let many = format!("[{}]", vec!["[0,0,1,1]"; 257].join(","));
    for text in ["", "[]", "{}", "[1,2,3]", "[1,1,1,5]", "[[0,0,1,1],[1]]", "[1,2,3,null]", "{\"boxes\": 3}", &many] {
        assert_eq!(parse_boxes(text), None, "{text:.40}");
    }
    assert_eq!(parse_boxes(&"[".repeat(100_000)), None);
}

#[test]
fn the_kind_of_question_is_guessed_from_most_answers() {
    for (texts, expected) in [
        (&["{\"boxes\": [1,2,3,4]}", "\n[1,2,3,4]", "none"][..], ProblemType::SpatialGrounding),
        (&["3", "4", "many"], ProblemType::Numerical),
        (&["A", "(B)", "B."], ProblemType::MultipleChoice),
        (&["A", "a cat", "3"], ProblemType::OpenEnded),
        (&[], ProblemType::OpenEnded),
    ] {
        assert_eq!(guess_problem(texts.iter().copied()), expected, "{texts:?}");
    }
}

#[test]
fn candidates_are_what_the_runtime_read_and_the_model_picked() {
    let generated = |stop, meets_constraint| Generated {
        tokens: vec![7; 4],
        logprobs: vec![-1.0, -50.0, -60.0, -2.0],
        top_logprobs: Vec::new(),
        forced: 1..3,
        thinking: "5?".to_owned(),
        text: "3".to_owned(),
        stop,
        meets_constraint,
    };
    let response = "<think>5?</think>3";
    for (stop, meets_constraint, is_complete) in [
        (StopReason::EndOfAnswer, None, true),
        (StopReason::StopString(0), None, true),
        (StopReason::StopString(0), Some(false), true),
        (StopReason::Caller, None, true),
        (StopReason::MaxTokens, None, false),
        (StopReason::MaxTokens, Some(true), true),
        (StopReason::ContextFull, Some(false), false),
        (StopReason::DeadEnd, Some(false), false),
        (StopReason::DeadEnd, Some(true), true),
    ] {
        let got = Candidate::new(response.to_owned(), &generated(stop, meets_constraint));
        let expected = Candidate { response: response.to_owned(), n_tokens: 2, is_complete, ..candidate("3", -3.0) };
        assert_eq!(got, expected, "{stop:?} {meets_constraint:?}");
    }
}
