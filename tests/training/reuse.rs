//! What activated runs leave to the base: computed once, with the bits of computing it every time, and wanted in every
//! prompt.

use super::*;

/// Four steps of two samples of three, so that prompts come again.
fn run(bench: &Bench, options: TrainerOptions) -> (Vec<StepMetrics>, Vec<u8>, Trainer) {
    let mut trainer = bench.trainer(options);
    let metrics = (0..4).map(|_| timeless(step(&mut trainer))).collect();
    (metrics, bench.adapter(&trainer), trainer)
}

fn forgetful(options: TrainerOptions) -> TrainerOptions {
    let prefix_cache = PrefixCacheOptions { sampler_bytes: 0, ..options.prefix_cache.clone() };
    TrainerOptions { prefix_cache, ..options }
}

#[test]
fn kept_prompts_change_no_bits_of_an_activated_run() {
    let bench = Bench::new();
    let mut thread_pair = TrainerOptions { n_sessions: 2, n_threads: 2, n_sequences: 4, ..activated() };
    thread_pair.precise_kv = false;
    for options in [activated(), TrainerOptions { precise_kv: false, ..activated() }, thread_pair] {
        let (metrics, adapter, trainer) = run(&bench, options.clone());
        let (expected, expected_adapter, without) = run(&bench, forgetful(options.clone()));
        assert_eq!((&metrics, &adapter), (&expected, &expected_adapter), "{options:?}");
        let stats = trainer.prompt_stats();
        assert_eq!(stats.n_restored + stats.n_computed, 8, "two prompts a step");
        // Two sessions may compute the same at the same time.
        assert!(stats.n_restored >= 4, "{stats:?}");
        assert_eq!((without.prompt_stats().n_restored, without.prompt_stats().n_computed), (0, 0));
        let engine = trainer.prefix_stats().expect("no gradient is under way");
        assert_eq!((engine.n_memory, engine.n_disk, engine.n_computed), (5, 0, 3), "{engine:?}");
    }
    let (_, _, full) = run(&bench, options());
    assert_eq!(full.prompt_stats().n_restored + full.prompt_stats().n_computed, 0);
}

#[test]
fn prompts_kept_in_a_folder_serve_the_next_run() {
    let bench = Bench::new();
    let (expected, expected_adapter, _) = run(&bench, activated());
    let directory = bench.folder.path().join("prefixes");
    // Files of the engine and of the sampler.
    let files = || fs::read_dir(&directory).expect("made on demand").map(|entry| entry.expect("readable").path());
    // Memory, folder, computed.
    let check = |what: &str, counts: [u64; 3]| {
        let prefix_cache = PrefixCacheOptions { directory: Some(directory.clone()), ..PrefixCacheOptions::default() };
        let (metrics, adapter, trainer) = run(&bench, TrainerOptions { prefix_cache, ..activated() });
        assert_eq!((metrics, adapter), (expected.clone(), expected_adapter.clone()), "{what}");
        let stats = trainer.prompt_stats();
        assert_eq!([stats.n_restored, stats.n_loaded, stats.n_computed], counts, "{what}");
        assert_eq!(files().count(), 6, "{what}");
    };
    check("an empty folder", [5, 0, 3]);
    check("the next run", [5, 3, 0]);
    for path in files() {
        let mut bytes = fs::read(&path).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("writable");
    }
    check("damaged files", [5, 0, 3]);
}

#[test]
fn prompts_that_do_not_invoke_the_adapter_are_found_before_any_work() {
    let bench = Bench::new();
    // Of the three questions, the first asks so.
    let invocation = bench.model.tokenize("one?", false).expect("tokenizes");
    let lora = LoraConfig { mode: LoraMode::Activated { invocation }, ..activated().lora };
    let options = TrainerOptions { lora: lora.clone(), ..activated() };
    let refused = |error: Option<owlet::Error>| {
        let error = error.expect("the second does not");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("does not invoke") && error.to_string().contains("data.jsonl"), "{error}");
        assert!(error.to_string().contains(":2") || error.to_string().contains("line 2"), "{error}");
    };
    refused(Trainer::new(&bench.model, dataset(bench.folder.path()), Arc::new(Letters), options).err());

    // The same of an adapter from elsewhere; the trainer stays what it was.
    let mut trainer = bench.trainer(activated());
    let mut elsewhere = trainer.adapter().expect("the model can be read").weights;
    elsewhere.config = lora;
    refused(trainer.start_from(elsewhere.clone()).err());
    assert_eq!(trainer.options().lora.mode, trainer.adapter().expect("the model can be read").weights.config.mode);
    step(&mut trainer);

    // And of held-out questions.
    let bytes = AdapterFile { weights: elsewhere, ..trainer.adapter().expect("the model can be read") }
        .to_bytes(Precision::F32)
        .expect("in memory");
    let adapter = Arc::new(Adapter::from_bytes(&bench.model, &bytes).expect("loads"));
    let mut session = tiny::session(&bench.model, 2, 128);
    session.set_adapters(&[(adapter, 1.0)]).expect("sets");
    let options = owlet_adapters::evaluate::EvaluateOptions {
        max_new_tokens: 4,
        suffix: "Answer.",
        reward: &Letters,
        composition: &owlet::reward::Composition::default(),
    };
    let mut n_answers = 0;
    let held_out = dataset(bench.folder.path());
    let evaluation =
        owlet_adapters::evaluate::evaluate(&mut [session], &held_out, &options, &CancelToken::new(), &mut |_| {
            n_answers += 1
        });
    refused(evaluation.err());
    assert_eq!(n_answers, 0);
}
