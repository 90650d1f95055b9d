//! Supervised training through the public API and the command: what is learned, and that nothing is lost when it is stopped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use owlet::{
    CancelToken, CheckpointStore, Dataset, ErrorKind, LoraConfig, Model, ModelOptions, QuantType, Responses, Schedule,
    TuneEvent, TuneMetrics, TuneObjective, TuneOptions, Tuner, Who,
    lora::LayerRange,
    quant::{QuantizeRequest, quantize},
    tune::Quantity,
};
use tempfile::TempDir;

#[expect(dead_code, unreachable_pub, reason = "the runtime's own tests use the rest")]
#[path = "../runtime/tests/common/tiny.rs"]
mod tiny;

const ROWS: &str = r#"{"problem":"one?","answer":"1","response":"<thinking>a b c</thinking><answer>1</answer>","problem_type":"numerical","task_type":"math_reasoning"}
{"problem":"and two?","answer":"2","problem_type":"numerical","task_type":"math_reasoning"}
{"problem":"<image>read","images":["owl.png"],"answer":"owl","problem_type":"ocr","task_type":"ocr"}
"#;

const DISTILL: TuneObjective = TuneObjective::Distillation { temperature: 1.0 };

/// A tiny model in F32 and in 4 bits, and data.
struct Bench {
    folder: TempDir,
    whole: Model,
    packed: Model,
}

impl Bench {
    fn new() -> Self {
        let (whole, folder) = tiny::load();
        let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 90]));
        picture.save(folder.path().join("owl.png")).expect("a writable folder");
        fs::write(folder.path().join("data.jsonl"), ROWS).expect("a writable folder");
        fs::create_dir(folder.path().join("packed")).expect("a writable folder");
        let path = folder.path().join("packed/tiny.gguf");
        fs::copy(folder.path().join("mmproj-tiny.gguf"), folder.path().join("packed/mmproj.gguf")).expect("a copy");
        let request = QuantizeRequest { threads: 1, ..QuantizeRequest::new(whole.path(), &path, QuantType::Q4_0) };
        quantize(&request, &mut |_| {}).expect("a model that can be quantized");
        let packed = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
        Self { folder, whole, packed }
    }

    fn data(&self) -> Dataset {
        Dataset::open(&self.folder.path().join("data.jsonl")).expect("good rows")
    }

    fn tuner(&self, options: TuneOptions) -> Tuner {
        let teacher = (options.objective == DISTILL).then_some(&self.whole);
        Tuner::new(&self.packed, teacher, self.data(), options).expect("good options")
    }
}

fn options(objective: TuneObjective) -> TuneOptions {
    TuneOptions {
        seed: 3,
        n_steps: 4,
        batch_size: 2,
        max_response_tokens: 64,
        max_prompt_tokens: 96,
        suffix: "Answer.".to_owned(),
        objective,
        responses: if objective == DISTILL { Responses::Teacher } else { Responses::Given },
        lora: LoraConfig { rank: 4, ..LoraConfig::default() },
        schedule: Schedule { learning_rate: 1e-2, ..Schedule::default() },
        n_threads: 1,
        ..TuneOptions::default()
    }
}

fn step(tuner: &mut Tuner) -> TuneMetrics {
    tuner.step(&CancelToken::new(), &mut |_| {}).expect("nothing stops it")
}

/// The numbers of a step that do not depend on the clock.
fn timeless(metrics: TuneMetrics) -> TuneMetrics {
    TuneMetrics { seconds: 0.0, tokens_per_second: 0.0, ..metrics }
}

/// Means of a quantity before and after.
fn change(tuner: &mut Tuner, data: &Dataset, quantity: Quantity) -> (f64, f64) {
    let mut mean = |who| {
        let fit = tuner.fit(data, who, &CancelToken::new(), &mut |_| {}).expect("nothing stops it");
        let values = fit.values(quantity).expect("all samples have it");
        assert_eq!(values.len(), data.len());
        values.iter().sum::<f64>() / values.len() as f64
    };
    (mean(Who::Base), mean(Who::Adapted))
}

#[test]
fn given_responses_become_likely() {
    let bench = Bench::new();
    let n_steps = 25;
    let mut tuner = bench.tuner(TuneOptions { n_steps, ..options(TuneObjective::Likelihood) });
    let losses: Vec<f64> = (0..n_steps).map(|_| step(&mut tuner).loss.expect("finite")).collect();
    assert!(losses[24] < 0.6 * losses[0], "{losses:?}");
    let (before, after) = change(&mut tuner, &bench.data(), Quantity::NegLogprob);
    assert!(after < 0.6 * before, "from {before} to {after}");
}

#[test]
fn a_quantized_model_comes_closer_to_its_source() {
    let bench = Bench::new();
    let n_steps = 25;
    let mut tuner = bench.tuner(TuneOptions { n_steps, max_response_tokens: 12, ..options(DISTILL) });
    let metrics: Vec<_> = (0..n_steps).map(|_| step(&mut tuner)).collect();
    assert!(metrics.iter().all(|metrics| metrics.applied && metrics.agreement.is_some()));
    let (before, after) = change(&mut tuner, &bench.data(), Quantity::Kl);
    assert!(before > 0.0 && after < 0.5 * before, "from {before} to {after}");
}

#[test]
fn a_run_that_was_cancelled_and_resumed_ends_with_the_same_bits() {
    let bench = Bench::new();
    for objective in [TuneObjective::Likelihood, DISTILL] {
        let options = || TuneOptions { max_response_tokens: 48, ..options(objective) };
        let mut whole = bench.tuner(options());
        let expected: Vec<_> = (0..4).map(|_| timeless(step(&mut whole))).collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = CheckpointStore::open(folder.path(), 2).expect("a writable folder");
        let mut first = bench.tuner(options());
        assert_eq!(timeless(step(&mut first)), expected[0]);
        let cancel = CancelToken::new();
        let mut stop = |event| {
            if matches!(event, TuneEvent::Learning { .. }) {
                cancel.cancel();
            }
        };
        let error = first.step(&cancel, &mut stop).expect_err("cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        first.checkpoint(&store, 42).expect("a writable folder");

        let mut second = bench.tuner(options());
        assert_eq!(second.resume(&store).expect("the same run").metrics_bytes, Some(42));
        for expected in &expected[1..] {
            assert_eq!(timeless(step(&mut second)), *expected);
        }
        assert_eq!(
            second.adapter().expect("the model can be read").weights,
            whole.adapter().expect("the model can be read").weights
        );

        let mut other = bench.tuner(TuneOptions { batch_size: 3, ..options() });
        assert_eq!(other.resume(&store).expect_err("another run").kind(), ErrorKind::Mismatch);
    }
}

#[test]
fn a_step_that_is_stopped_anywhere_leaves_no_trace() {
    let bench = Bench::new();
    for objective in [TuneObjective::Likelihood, DISTILL] {
        let options = || TuneOptions { responses: Responses::Given, ..options(objective) };
        let mut whole = bench.tuner(options());
        let mut stopped = bench.tuner(options());
        let mut n_stops = 0;
        for _ in 0..2 {
            // Later and later, until a step is through: between samples, and between the layers of one.
            let done = (0..).find_map(|attempt| {
                let cancel = CancelToken::new();
                let step = std::thread::scope(|scope| {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(attempt * attempt));
                        cancel.cancel();
                    });
                    stopped.step(&cancel, &mut |_| {})
                });
                n_stops += usize::from(step.is_err());
                step.map_err(|error| assert_eq!(error.kind(), ErrorKind::Cancelled)).ok()
            });
            assert_eq!(done.map(timeless), Some(timeless(step(&mut whole))));
        }
        assert!(n_stops > 0, "a step takes longer than no time");
        assert_eq!(
            stopped.adapter().expect("the model can be read").weights,
            whole.adapter().expect("the model can be read").weights
        );
    }
}

#[test]
fn a_run_can_begin_with_an_adapter() {
    let bench = Bench::new();
    let mut first = bench.tuner(options(TuneObjective::Likelihood));
    step(&mut first);
    let start = first.adapter().expect("the model can be read").weights;
    let mut second = bench.tuner(TuneOptions { seed: 4, ..options(TuneObjective::Likelihood) });
    second.start_from(start.clone()).expect("an adapter of the same model");
    let likelihood = |tuner: &mut Tuner| change(tuner, &bench.data(), Quantity::NegLogprob).1;
    assert_eq!(likelihood(&mut second), likelihood(&mut first));
    let fits = |tuner: &mut Tuner| {
        [Who::Base, Who::Start, Who::Adapted]
            .map(|who| tuner.fit(&bench.data(), who, &CancelToken::new(), &mut |_| {}).expect("nothing stops it"))
    };
    let [base, started, adapted] = fits(&mut second);
    assert!(started == adapted && started != base, "the run begins with the adapter");
    step(&mut second);
    assert_eq!(fits(&mut second)[1], started);
    assert_eq!(fits(&mut first)[1], base, "a fresh adapter is none");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = CheckpointStore::open(folder.path(), 2).expect("a writable folder");
    second.checkpoint(&store, 0).expect("a writable folder");
    let mut fresh = bench.tuner(TuneOptions { seed: 4, ..options(TuneObjective::Likelihood) });
    assert_eq!(fresh.resume(&store).expect_err("another start").kind(), ErrorKind::Mismatch);
    fresh.start_from(start.clone()).expect("an adapter of the same model");
    assert_eq!(fresh.resume(&store).expect("the same run").metrics_bytes, Some(0));

    let mut stranger = start;
    stranger.modules[0].n_out += 1;
    let error = fresh.start_from(stranger).expect_err("another model");
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("blk.0."), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let bench = Bench::new();
    let new = |teacher: Option<&Model>, options: TuneOptions| {
        Tuner::new(&bench.packed, teacher, bench.data(), options).map(drop).expect_err("refused").kind()
    };
    assert_eq!(new(None, options(DISTILL)), ErrorKind::InvalidInput);
    let likelihood = || options(TuneObjective::Likelihood);
    assert_eq!(new(None, TuneOptions { responses: Responses::Teacher, ..likelihood() }), ErrorKind::InvalidInput);
    assert_eq!(new(None, TuneOptions { batch_size: 0, ..likelihood() }), ErrorKind::InvalidInput);
    let layers = Some(LayerRange { first: 1, last: 2 });
    let lora = LoraConfig { layers, ..LoraConfig::default() };
    assert_eq!(new(None, TuneOptions { lora, ..likelihood() }), ErrorKind::Mismatch);
    let too_long = [
        (TuneOptions { max_response_tokens: 30, ..likelihood() }, ErrorKind::Limit, "data.jsonl:1"),
        (TuneOptions { max_prompt_tokens: 3, ..likelihood() }, ErrorKind::ContextOverflow, "data.jsonl:1"),
    ];
    for (options, kind, place) in too_long {
        let error = Tuner::new(&bench.packed, None, bench.data(), options).map(drop).expect_err("too long");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(place), "{error}");
    }
}

#[test]
fn limits_that_nothing_is_cut_to_may_change_when_a_run_is_resumed() {
    let bench = Bench::new();
    let given = || options(TuneObjective::Likelihood);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = CheckpointStore::open(folder.path(), 2).expect("a writable folder");
    bench.tuner(given()).checkpoint(&store, 0).expect("a writable folder");
    let wider =
        TuneOptions { n_steps: 9, max_prompt_tokens: 100, max_response_tokens: 100, max_skipped_updates: 2, ..given() };
    assert_eq!(bench.tuner(wider).resume(&store).expect("the same run").metrics_bytes, Some(0));
    let cut = || TuneOptions { max_response_tokens: 8, ..options(DISTILL) };
    bench.tuner(cut()).checkpoint(&store, 0).expect("a writable folder");
    let mut longer = bench.tuner(TuneOptions { max_response_tokens: 9, ..cut() });
    assert_eq!(longer.resume(&store).expect_err("other answers").kind(), ErrorKind::Mismatch);
}

#[test]
fn updates_that_are_not_finite_are_skipped_until_the_run_counts_as_diverged() {
    let bench = Bench::new();
    let options = || TuneOptions { max_skipped_updates: 3, ..options(TuneObjective::Likelihood) };
    let broken = || {
        let mut tuner = bench.tuner(options());
        let mut weights = tuner.adapter().expect("the model can be read").weights;
        weights.tensors_mut().for_each(|tensor| tensor.fill(f32::NAN));
        tuner.start_from(weights).expect("an adapter of the same model");
        tuner
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = CheckpointStore::open(folder.path(), 2).expect("a writable folder");
    let mut tuner = broken();
    for _ in 0..2 {
        let metrics = step(&mut tuner);
        assert!(!metrics.applied && metrics.loss.is_none() && metrics.grad_norm.is_none(), "{metrics:?}");
        let line = serde_json::to_string(&metrics).expect("numbers");
        assert_eq!(serde_json::from_str::<TuneMetrics>(&line).expect("its own words"), metrics);
    }
    let diverged = |tuner: &mut Tuner| tuner.step(&CancelToken::new(), &mut |_| {}).expect_err("diverged").kind();
    assert_eq!((diverged(&mut tuner), tuner.n_steps_done()), (ErrorKind::Diverged, 2));
    tuner.checkpoint(&store, 0).expect("a writable folder");
    let mut resumed = broken();
    resumed.resume(&store).expect("the same run");
    assert_eq!(diverged(&mut resumed), ErrorKind::Diverged, "a resumed run counts on");
}

#[test]
fn a_teacher_with_another_chat_template_is_refused() {
    let bench = Bench::new();
    let mut other = tiny::model();
    other.set("tokenizer.chat_template", "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = other.write(&folder.path().join("other.gguf"));
    let other = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    let error = Tuner::new(&bench.packed, Some(&other), bench.data(), options(DISTILL)).map(drop);
    let error = error.expect_err("another prompt");
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.to_string().contains("chat template"), "{error}");
}

fn owlet(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_owlet"));
    command.args(arguments).current_dir(folder).env("NO_COLOR", "1").output().expect("cargo built the command")
}

#[test]
fn both_commands_write_adapters_and_reports() {
    let bench = Bench::new();
    let short = ["--steps", "2", "--batch-size", "1", "--threads", "1", "--rank", "2", "--suffix", ""];
    let common = ["-m", "packed/tiny.gguf", "--data", "data.jsonl", "--eval", "data.jsonl", "--json", "-q"];
    for (command, more) in [
        ("tune", &["--rslora", "--blocks", "1-1", "--lr-schedule", "cosine"][..]),
        ("recover", &["--teacher", "tiny.gguf", "--max-tokens", "8"]),
        ("recover", &["--teacher", "tiny.gguf", "--responses", "data", "-o", "other.gguf"]),
    ] {
        let out = PathBuf::from(if more.contains(&"-o") { "other.gguf" } else { command }).with_extension("gguf");
        let name = out.display().to_string();
        let named = ["-o", &name];
        let named: &[&str] = if more.contains(&"-o") { &[] } else { &named };
        let output = owlet(bench.folder.path(), &[&[command], &common[..], &short, more, named].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
        assert_eq!((&report["n_steps"], &report["held_out"]["n_samples"]), (&2.into(), &3.into()));
        assert!(report["held_out"]["neg_logprob"]["before"]["mean"].as_f64().is_some_and(|mean| mean > 0.0));
        assert_eq!(report["held_out"]["kl"]["after"]["mean"].is_f64(), command == "recover", "{report}");
        let ask = ["run", "-m", "packed/tiny.gguf", "--adapter", &name, "--max-tokens", "2", "-q", "why?"];
        assert_eq!(owlet(bench.folder.path(), &ask).status.code(), Some(0));
    }
    let warm = ["adapt", "-m", "packed/tiny.gguf", "--data", "data.jsonl", "--from", "tune.gguf", "-o", "warm.gguf"];
    let short = ["--steps", "1", "--prompts-per-step", "1", "--group-size", "2", "--max-tokens", "4", "--threads", "1"];
    let output = owlet(bench.folder.path(), &[&warm[..], &short].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let refused = owlet(bench.folder.path(), &["recover", "-m", "tiny.gguf", "--data", "data.jsonl", "-o", "x.gguf"]);
    assert_eq!(refused.status.code(), Some(1));
    let few = ["recover", "-m", "packed/tiny.gguf", "--teacher", "tiny.gguf", "--data", "data.jsonl", "-o", "x.gguf"];
    let output = owlet(bench.folder.path(), &few);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("--eval"), "{told}");
}

#[test]
fn data_that_seldom_does_what_its_user_wants_brings_a_warning() {
    let bench = Bench::new();
    let same_data = ["--eval", "data.jsonl"];
    let recover = ["--teacher", "tiny.gguf", "--max-tokens", "64"];
    let cases: [(&str, &[&[&str]], bool, bool); 4] = [
        ("tune", &[&same_data], true, true),
        ("tune", &[&["--suffix", "Answer."]], false, false),
        ("recover", &[&recover, &same_data], false, true),
        ("recover", &[&recover, &same_data, &["--responses", "data"]], true, true),
    ];
    for (index, (command, more, is_bare, is_same)) in cases.into_iter().enumerate() {
        let out = format!("{index}.gguf");
        let common = ["-m", "packed/tiny.gguf", "--data", "data.jsonl", "--steps", "1", "--batch-size", "1"];
        let short = ["--threads", "1", "--rank", "2", "-o", &out];
        let output = owlet(bench.folder.path(), &[&[command], &common[..], &short, &more.concat()].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(told.contains("warning: 2 of 3 rows have no `response`"), is_bare, "{command}: {told}");
        assert_eq!(told.contains("warning: `--eval` has the samples of `--data`"), is_same, "{command}: {told}");
    }
}
