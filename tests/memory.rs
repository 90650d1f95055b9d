//! The memory plan of inference against the anonymous memory that it then takes, each case in a process of its own.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "tests tell what they measured, one to the other")]

#[path = "common/peak.rs"]
mod peak;
#[path = "common/planned.rs"]
mod planned;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use owlet::{
    AnswerOptions, CancelToken, EncodedPrompt, ErrorKind, FlashAttention, GenerateRequest, Image, InferencePart,
    InferencePlan, InferenceRequest, KvType, Model, ModelOptions, Prompt, QuantType, RngKey, Session, SessionOptions,
    generate,
    gguf::GgufFile,
    quant::synth::{Family, SynthModel, SynthOptions, SynthTower, synthesize, synthesize_tower},
};

/// One setting of the grid.
struct Case {
    name: &'static str,
    decoder: SynthModel,
    tower: Option<SynthTower>,
    session: SessionOptions,
    /// Tokens of the one picture; 0 for none.
    image_tokens: usize,
}

/// Large enough for the tensors to outweigh the program.
fn decoder(family: Family) -> SynthModel {
    SynthModel { n_layers: 6, n_embd: 512, n_ff: 1536, n_heads: 8, n_kv_heads: 4, ..SynthModel::tiny(family) }
}

fn cases() -> Vec<Case> {
    let plain = SessionOptions { n_ctx: 2048, n_threads: 1, ..SessionOptions::default() };
    let text = |name, session| Case { name, decoder: decoder(Family::Qwen3), tower: None, session, image_tokens: 0 };
    let tower = SynthTower { n_layers: 3, n_embd: 256, n_ff: 1024, ..SynthTower::tiny() };
    let seeing = |name, image_tokens| Case {
        name,
        decoder: decoder(Family::Qwen3Vl),
        tower: Some(tower.clone()),
        session: SessionOptions { n_ctx: 1024, ..plain },
        image_tokens,
    };
    vec![
        text("default", plain),
        text(
            "F32 keys and scores",
            SessionOptions { kv_type: KvType::F32, flash_attention: FlashAttention::Off, ..plain },
        ),
        text("Q8_0 keys", SessionOptions { kv_type: KvType::Q8_0, ..plain }),
        text("many sequences", SessionOptions { n_ctx: 512, n_seq: 8, ..plain }),
        text("small batches", SessionOptions { n_ctx: 4096, n_ubatch: 128, ..plain }),
        Case {
            name: "large vocabulary",
            decoder: SynthModel { n_vocab: 60_000, ..decoder(Family::Llama) },
            ..text("", SessionOptions { n_seq: 4, n_ctx: 512, ..plain })
        },
        seeing("a small picture", 256),
        seeing("a large picture", 900),
    ]
}

fn request(case: &Case) -> InferenceRequest {
    InferenceRequest { session: case.session, max_image_tokens: case.image_tokens, ..InferenceRequest::default() }
}

fn open(path: &Path, case: &Case) -> (GgufFile, Option<GgufFile>) {
    let mmproj = case.tower.as_ref().map(|_| GgufFile::open(path.with_file_name("mmproj-model.gguf")).expect("valid"));
    (GgufFile::open(path).expect("valid"), mmproj)
}

fn write(folder: &Path, case: &Case) -> PathBuf {
    let path = folder.join("model.gguf");
    let options = SynthOptions { dtype: QuantType::Q8_0, threads: 1, ..SynthOptions::default() };
    synthesize(&case.decoder, &path, &options, &mut |_| ()).expect("a model of this shape");
    let mmproj = folder.join("mmproj-model.gguf");
    match &case.tower {
        Some(tower) => synthesize_tower(tower, &case.decoder, &mmproj, &options, &mut |_| ()).expect("a tower"),
        // One of the case before.
        None => drop(fs::remove_file(&mmproj)),
    }
    path
}

/// Shows the picture, and fills all sequences but for a few tokens.
fn work(case: &Case, path: &Path) {
    let model = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    let mut prompt = EncodedPrompt::default();
    if case.image_tokens > 0 {
        let side = 32 * case.image_tokens.isqrt() as u32;
        let picture = Image::from_rgb(side, side, vec![90; (side * side * 3) as usize]).expect("right size");
        let budget =
            owlet::ImageBudget { max_pixels: case.image_tokens as u64 * 1024, ..model.image_budget().expect("sees") };
        prompt = model.encode_with(&Prompt::user("What?", vec![picture]).expect("no marks"), budget).expect("encodes");
    }
    let mut session = Session::new(&model, &case.session).expect("fits");
    let n_words = case.session.n_ctx - prompt.n_tokens() - 8;
    prompt
        .segments
        .extend(EncodedPrompt::from_tokens(model.tokenize(&"o".repeat(n_words), false).expect("tokens")).segments);
    let request = GenerateRequest { prompt: &prompt, n: case.session.n_seq, rng_key: RngKey::default() };
    let options = AnswerOptions { max_new_tokens: 4, ..AnswerOptions::default() };
    generate(&mut session, &[request], &options, &CancelToken::new(), &mut |_| ControlFlow::Continue(()))
        .expect("answers");
}

/// Not a test of its own: what [`plans_are_within_15_percent_of_the_peak`] runs for every case.
#[test]
#[ignore = "a part of another test"]
fn measure_one_case() {
    let Some((name, path)) = planned::asked() else { return };
    let case = cases().into_iter().find(|case| case.name == name).expect("a case of the grid");
    planned::tell(peak::watch(|| work(&case, &path)).1);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "reads /proc")]
fn plans_are_within_15_percent_of_the_peak() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut failures = Vec::new();
    for case in cases() {
        let path = write(folder.path(), &case);
        let (file, mmproj) = open(&path, &case);
        let plan = InferencePlan::new(&file, mmproj.as_ref(), &request(&case)).expect("a plan");
        let parts: Vec<_> = plan.parts.iter().map(|(part, bytes)| (part.name(), *bytes)).collect();
        failures.extend(planned::compare(case.name, &path, &parts));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn budgets_are_met_step_by_step_or_refused_with_what_would_fit() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = cases().pop().expect("the one with the large picture");
    let session = SessionOptions { n_ctx: 4096, n_seq: 2, kv_type: KvType::F32, ..case.session };
    let request = InferenceRequest { session, max_image_tokens: 1024, ..request(&case) };
    let path = write(folder.path(), &case);
    let (file, mmproj) = open(&path, &case);
    let free = InferencePlan::new(&file, mmproj.as_ref(), &request).expect("no limit");
    let fit = |budget| InferencePlan::fit(&file, mmproj.as_ref(), &request, budget);
    assert_eq!(fit(free.peak_bytes()).expect("exactly fits"), free);
    let mut budget = free.peak_bytes();
    let mut seen = vec![free];
    let refusal = loop {
        budget -= seen[0].peak_bytes() / 50;
        match fit(budget) {
            Ok(plan) => {
                assert!(plan.peak_bytes() <= budget, "{} for {budget}", plan.peak_bytes());
                seen.push(plan);
            }
            Err(error) => break error,
        }
    };
    let order = |plan: &InferencePlan| {
        let InferencePlan { session, image_tokens, .. } = plan;
        let precision = [KvType::Q8_0, KvType::F16, KvType::F32].iter().position(|&kv| kv == session.kv_type);
        (session.n_ctx, *image_tokens, precision, session.n_ubatch)
    };
    assert!(seen.iter().map(order).rev().is_sorted(), "in the order that the documentation gives");
    let last = seen.last().expect("the free one at least");
    let least = (last.session.n_ubatch, last.session.kv_type, last.image_tokens, last.session.n_ctx < 4096);
    assert_eq!(least, (128, KvType::Q8_0, 256, true));
    assert!(last.session.n_ctx >= 512);
    let text = refusal.to_string();
    assert_eq!(refusal.kind(), ErrorKind::Limit);
    assert!(text.contains("at least") && text.contains("image encoder: graph"), "{text}");
    // As much as it says is enough.
    let least: usize =
        text.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).expect(&text).parse().expect("a number");
    let least = fit(least << 20).expect("what the refusal names");
    assert_eq!(least.session.n_ctx, 512);
    // What fits only without something is told so.
    let kept = InferenceRequest { prompt_cache_bytes: 1 << 30, ..request.clone() };
    let error = InferencePlan::fit(&file, mmproj.as_ref(), &kept, 256 << 20).expect_err("the cache is too large");
    assert!(error.to_string().contains("each of these would fit: no kept prompts"), "{error}");
}

#[test]
fn sessions_fit_themselves_to_a_budget_or_refuse() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = cases().pop().expect("the one with the large picture");
    let model = Model::load(write(folder.path(), &case), &ModelOptions { n_threads: 1, ..ModelOptions::default() });
    let model = model.expect("loads");
    let wanted = SessionOptions { n_ctx: 4096, n_threads: 1, ..SessionOptions::default() };
    let request = InferenceRequest { session: wanted, ..InferenceRequest::default() };
    let free = InferencePlan::of_model(&model, &request).expect("a plan");
    let session = |budget| Session::new(&model, &SessionOptions { memory_budget: Some(budget), ..wanted });
    let unfitted = session(free.peak_bytes()).expect("fits");
    assert_eq!((unfitted.options().n_ctx, unfitted.options().n_ubatch), (4096, 512));
    assert_eq!(unfitted.image_budget().map(|budget| budget.max_pixels), Some(free.max_pixels));
    let budget = free.peak_bytes() - free.bytes(InferencePart::ImageGraph) - (4 << 20);
    let fitted = session(budget).expect("fits");
    let pixels = fitted.image_budget().expect("sees").max_pixels;
    assert!(pixels < free.max_pixels && pixels >= 256 * 1024, "{pixels}");
    // Weights that the model was loaded to repack count, whatever a request says.
    let repack = ModelOptions { repack: true, n_threads: 1, ..ModelOptions::default() };
    let repacked = Model::load(model.path(), &repack).expect("loads");
    let plan = InferencePlan::of_model(&repacked, &request).expect("a plan");
    assert_eq!(plan.bytes(InferencePart::RepackedWeights), plan.mapped_bytes);
    let fitted = Session::new(&repacked, &SessionOptions { memory_budget: Some(free.peak_bytes()), ..wanted });
    let fitted = fitted.map(|session| (session.options().n_ctx, session.options().n_ubatch));
    assert_ne!(fitted.ok(), Some((4096, 512)), "something has to give way");
    let error = session(20 << 20).expect_err("too small");
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
}
