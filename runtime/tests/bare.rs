//! The bare loop takes what a session would have decoded, and refuses the rest before llama.cpp sees it.

mod common;

use common::tiny;
use owlet_runtime::{BareLoop, ErrorKind, SessionOptions, TokenId};

#[test]
fn a_bare_loop_decodes_given_tokens_and_refuses_what_does_not_fit() {
    let (model, _folder) = tiny::load();
    // Prompts longer than a batch go in pieces.
    let options = SessionOptions { n_ctx: 40, n_seq: 3, n_ubatch: 16, n_threads: 1, ..SessionOptions::default() };
    let mut bare = BareLoop::new(&model, &options).expect("a loop");
    let answers = |n: usize, n_tokens: usize| vec![vec![7; n_tokens]; n];
    for n in [1, 3] {
        assert!(!bare.run(&[5; 33], &answers(n, 7)).expect("a time").is_zero());
    }
    let outside = model.info().n_vocab as TokenId;
    let cases = [
        ("no prompt", vec![], answers(1, 4), ErrorKind::InvalidInput),
        ("no answers", vec![1], vec![], ErrorKind::InvalidInput),
        ("an empty answer", vec![1], answers(1, 0), ErrorKind::InvalidInput),
        ("answers of different lengths", vec![1], vec![vec![1], vec![1, 2]], ErrorKind::InvalidInput),
        ("more answers than sequences", vec![1], answers(4, 4), ErrorKind::InvalidInput),
        ("a token outside", vec![outside], answers(1, 4), ErrorKind::InvalidInput),
        ("a negative token", vec![1], vec![vec![-1, 2]], ErrorKind::InvalidInput),
        ("too long", vec![1; 37], answers(1, 4), ErrorKind::ContextOverflow),
    ];
    for (name, prompt, answers, kind) in cases {
        assert_eq!(bare.run(&prompt, &answers).expect_err(name).kind(), kind, "{name}");
    }
}
