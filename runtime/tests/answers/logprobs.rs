//! Log-probabilities of the most probable tokens.

use owlet_runtime::AnswerOptions;

use super::{answers, ask, common::tiny, conversation, options};

const N: usize = 200;

fn asked(temperature: f32) -> AnswerOptions {
    let mut options = AnswerOptions { top_logprobs: N, max_new_tokens: 6, ..options() };
    (options.sampler.temperature, options.sampler.banned) = (temperature, vec![9]);
    options
}

#[test]
fn every_token_comes_with_the_most_probable_ones_at_any_temperature() {
    let (model, _folder) = tiny::load();
    // At the lowest, nearly all have a probability that no number of 32 bits tells from 0.
    let first_rows = [1.0, 0.02].map(|temperature| {
        let (answer, _) = answers(&model, 1, &asked(temperature)).expect("runs").remove(0);
        assert_eq!(answer.top_logprobs.len(), answer.tokens.len());
        for ((row, token), logprob) in answer.top_logprobs.iter().zip(&answer.tokens).zip(&answer.logprobs) {
            assert!(row.len() == N && row.is_sorted_by(|a, b| a.logprob >= b.logprob), "{temperature}");
            assert!(row.iter().all(|other| other.token != 9), "banned");
            let picked = row.iter().find(|other| other.token == *token);
            assert_eq!(picked.map(|picked| picked.logprob), Some(*logprob), "{temperature}");
        }
        let turn = ask(&mut conversation(&model, asked(temperature)), "Hello?", &mut Vec::new()).expect("answers");
        assert_eq!(turn.answer, answer, "{temperature}");
        answer.top_logprobs[0].iter().map(|other| other.token).collect::<Vec<_>>()
    });
    assert_eq!(first_rows[0], first_rows[1]);
    let (untold, _) = answers(&model, 1, &AnswerOptions { top_logprobs: 0, ..asked(1.0) }).expect("runs").remove(0);
    assert!(untold.top_logprobs.is_empty());
}
