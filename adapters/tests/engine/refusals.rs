//! What the engine refuses, and how.

use owlet_adapters::{
    engine::{Engine, EngineOptions, GroupInput, TokenScores},
    lora::{LoraGrads, LoraWeights, Target},
};
use owlet_runtime::{
    EncodedPrompt, Error, ErrorKind, Segment, TokenId,
    gguf::{GgmlType, GgufFile, GgufWriter},
};

use crate::random::{self, RandomModel};

fn engine() -> Engine {
    Engine::from_file(&RandomModel::small("qwen3vl").write(), EngineOptions::default()).unwrap()
}

#[test]
fn groups_that_make_no_sense_are_refused() {
    let model = RandomModel::small("qwen3vl");
    let mut engine = engine();
    let (good, empty) = (model.prompt(5), EncodedPrompt::default());
    let mut foreign_image = good.clone();
    for segment in &mut foreign_image.segments {
        if let Segment::Image(image) = segment {
            std::sync::Arc::make_mut(image).width_embd += 1;
        }
    }
    let outside = EncodedPrompt::from_tokens(vec![3, 90]);
    type Case<'a> = (&'a EncodedPrompt, &'a [&'a [TokenId]], f32, ErrorKind);
    let cases: [Case; 9] = [
        (&empty, &[&[1]], 1.0, ErrorKind::InvalidInput),
        (&good, &[], 1.0, ErrorKind::InvalidInput),
        (&good, &[&[1], &[]], 1.0, ErrorKind::InvalidInput),
        (&good, &[&[1]], 0.0, ErrorKind::InvalidInput),
        (&good, &[&[1]], f32::NAN, ErrorKind::InvalidInput),
        (&good, &[&[90]], 1.0, ErrorKind::InvalidInput),
        (&good, &[&[-1, 2]], 1.0, ErrorKind::InvalidInput),
        (&outside, &[&[1]], 1.0, ErrorKind::InvalidInput),
        (&foreign_image, &[&[1]], 1.0, ErrorKind::Mismatch),
    ];
    for (prompt, completions, temperature, kind) in cases {
        let group = GroupInput { prompt, completions };
        let error = engine.score(None, &group, temperature).expect_err("refused");
        assert_eq!(error.kind(), kind, "{completions:?} at {temperature}: {error}");
    }
    engine.score(None, &GroupInput { prompt: &good, completions: &[&[1, 2]] }, 1.0).expect("still works");
}

#[test]
fn adapters_and_coefficients_that_do_not_fit_are_refused() {
    let model = RandomModel::small("qwen3vl");
    let mut engine = engine();
    let good = random::adapter(&engine.lora_targets(), 4, &Target::ALL);
    let prompt = model.prompt(5);
    let completions: &[&[TokenId]] = &[&[1, 2], &[3]];
    let group = GroupInput { prompt: &prompt, completions };
    let mut run = |lora: &LoraWeights, gradients: &mut LoraGrads, coefficients: &[&[f32]]| {
        let answer: Vec<Vec<f32>> = coefficients.iter().map(|list| list.to_vec()).collect();
        engine.gradient(lora, &group, 1.0, &mut |_| answer.clone(), gradients).map_err(|error: Error| error.kind())
    };
    let changed = |change: fn(&mut LoraWeights)| {
        let mut lora = good.clone();
        change(&mut lora);
        lora
    };
    let right: &[&[f32]] = &[&[1.0, 1.0], &[1.0]];
    for (name, lora) in [
        ("a tensor that is not there", changed(|lora| lora.modules[0].name = "blk.9.attn_q.weight".into())),
        ("a tensor that is no layer", changed(|lora| lora.modules[0].name = "output_norm.weight".into())),
        ("another width", changed(|lora| lora.modules[0].n_in += 1)),
        ("another rank", changed(|lora| lora.config.rank = 8)),
        ("a tensor twice", changed(|lora| lora.modules.push(lora.modules[0].clone()))),
    ] {
        assert_eq!(run(&lora, &mut LoraGrads::zeros(&lora), right), Err(ErrorKind::Mismatch), "{name}");
    }
    let mut gradients = LoraGrads::zeros(&good);
    for coefficients in [&[&[1.0f32, 1.0][..]][..], &[&[1.0], &[1.0]], &[&[1.0, f32::NAN], &[1.0]]] {
        assert_eq!(run(&good, &mut gradients, coefficients), Err(ErrorKind::InvalidInput), "{coefficients:?}");
    }
    assert_eq!(gradients, LoraGrads::zeros(&good), "a refused call leaves the gradients alone");
    gradients.modules.pop();
    assert_eq!(run(&good, &mut gradients, right), Err(ErrorKind::Mismatch));
    let scores: Result<Vec<TokenScores>, _> = run(&good, &mut LoraGrads::zeros(&good), right);
    assert!(scores.is_ok());
}

#[test]
fn models_that_would_be_computed_wrongly_are_refused_by_name() {
    let rewrite = |change: &dyn Fn(&mut GgufWriter), skip: &str| {
        let file = RandomModel::small("qwen3").write();
        let mut writer = GgufWriter::new();
        file.metadata().iter().for_each(|(key, value)| {
            writer.set(key.clone(), value.clone());
        });
        change(&mut writer);
        let kept: Vec<_> = file.tensors().iter().filter(|tensor| tensor.name != skip).collect();
        kept.iter().for_each(|tensor| writer.declare(&tensor.name, &tensor.shape, tensor.dtype).unwrap());
        let names: Vec<String> = writer.tensors().iter().map(|tensor| tensor.name.clone()).collect();
        let mut stream = writer.start(Vec::new()).unwrap();
        for name in names {
            match file.tensor(&name) {
                Some(tensor) => stream.write_tensor(&name, file.data(tensor)).unwrap(),
                None => stream.write_tensor(&name, &[0; 64]).unwrap(),
            }
        }
        let file = std::sync::Arc::new(GgufFile::from_bytes(stream.finish().unwrap()).unwrap());
        Engine::from_file(&file, EngineOptions::default())
            .map(|_| ())
            .map_err(|error| (error.kind(), error.to_string()))
    };
    assert_eq!(rewrite(&|_| (), ""), Ok(()));
    type Change<'a> = &'a dyn Fn(&mut GgufWriter);
    type Case<'a> = (Change<'a>, &'a str, ErrorKind, &'a str);
    let cases: [Case; 14] = [
        (&|w| _ = w.set("general.architecture", "gemma3"), "", ErrorKind::Unsupported, "gemma3"),
        (&|w| _ = w.set("qwen3.rope.scaling.type", "yarn"), "", ErrorKind::Unsupported, "yarn"),
        (&|w| _ = w.set("qwen3.rope.scaling.factor", 4f32), "", ErrorKind::Unsupported, "scaling.factor"),
        (&|w| _ = w.set("qwen3.rope.scale_linear", 2f32), "", ErrorKind::Unsupported, "scale_linear"),
        (&|w| _ = w.set("qwen3.attention.sliding_window", 512u32), "", ErrorKind::Unsupported, "sliding_window"),
        (&|w| _ = w.set("qwen3.attention.scale", 0.3f32), "", ErrorKind::Unsupported, "attention.scale"),
        (&|w| _ = w.set("qwen3.logit_scale", 0.1f32), "", ErrorKind::Unsupported, "logit_scale"),
        (&|w| _ = w.set("qwen3.attention.causal", false), "", ErrorKind::Unsupported, "causal"),
        (&|w| _ = w.set("qwen3.expert_count", 8u32), "", ErrorKind::Unsupported, "expert_count"),
        (&|w| w.declare("rope_freqs.weight", &[16], GgmlType::F32).unwrap(), "", ErrorKind::Unsupported, "rope_freqs"),
        (&|w| _ = w.set("qwen3.attention.head_count", 0u32), "", ErrorKind::InvalidFile, "heads"),
        (&|w| _ = w.set("qwen3.feed_forward_length", 81u32), "", ErrorKind::Mismatch, "ffn_"),
        (&|w| _ = w.set("qwen3.block_count", 4u32), "", ErrorKind::InvalidFile, "blk.3"),
        (&|_| (), "blk.1.ffn_up.weight", ErrorKind::InvalidFile, "blk.1.ffn_up.weight"),
    ];
    for (change, skip, kind, text) in cases {
        let (got, message) = rewrite(change, skip).expect_err(text);
        assert!(got == kind && message.contains(text), "{text}: {message}");
    }
}
