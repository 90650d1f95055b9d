//! Models with random weights: what llama.cpp and others find in the files.
#![expect(clippy::unwrap_used, reason = "tests may stop")]

use std::{fs, path::Path};

use owlet_quant::{
    FileReport,
    synth::{Family, SynthModel, SynthOptions, SynthTower, synthesize, synthesize_tower},
};
use owlet_runtime::{
    CancelToken, ErrorKind, Image, Model, ModelOptions, Prompt, Segment,
    gguf::{GgmlType, GgufFile},
    quantize::{QuantType, dequantize_rows},
};

fn write(model: &SynthModel, path: &Path, options: &SynthOptions) -> owlet_runtime::Result<FileReport> {
    synthesize(model, path, options, &mut |_| ())
}

#[test]
fn the_same_request_gives_the_same_bytes_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    // Several pieces a tensor.
    let model = SynthModel { n_vocab: 9000, ..SynthModel::tiny(Family::Llama) };
    let bytes = |seed, threads| {
        let path = folder.path().join("model.gguf");
        write(&model, &path, &SynthOptions { dtype: QuantType::Q8_0, seed, threads, ..SynthOptions::default() })
            .unwrap();
        fs::read(path).unwrap()
    };
    let first = bytes(1, 1);
    assert!(first == bytes(1, 3), "bytes depend on the number of threads");
    let other = bytes(2, 2);
    assert_eq!(first.len(), other.len());
    assert!(first != other, "the seed changes nothing");
}

#[test]
fn every_family_loads_with_a_tokenizer_that_works() {
    let folder = tempfile::tempdir().unwrap();
    for (family, tied) in Family::ALL.into_iter().zip([true, false].into_iter().cycle()) {
        let path = folder.path().join(format!("{family}.gguf"));
        let description = SynthModel { tied, ..SynthModel::tiny(family) };
        write(&description, &path, &SynthOptions::default()).unwrap();
        let model = Model::load(&path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).unwrap();
        let info = model.info();
        assert_eq!((info.architecture.as_str(), info.n_vocab, info.n_layer), (family.name(), 320, 2));
        let text = "Naïve owls: 12 × 3 = 36\n";
        let tokens = model.tokenize(text, true).unwrap();
        assert_eq!((tokens.len(), model.detokenize(&tokens)), (text.len(), text.to_owned()), "{family}");
        let prompt = model.encode(&Prompt::user("Hoo?", Vec::new()).unwrap()).unwrap();
        // Two marks of three tokens each: <|im_start|>, <|im_end|>, and "user\n", "Hoo?", "\n", "assistant\n" by bytes.
        assert_eq!(prompt.n_tokens(), 3 + "user\nHoo?\nassistant\n".len(), "{family}");
    }
}

#[test]
fn mixtures_are_those_of_the_quantizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixed.gguf");
    let model = SynthModel { n_layers: 8, ..SynthModel::tiny(Family::Qwen3Vl) };
    let options = SynthOptions { dtype: QuantType::Q4KM, ..SynthOptions::default() };
    let report = write(&model, &path, &options).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let dtype = |name: &str| file.tensor(name).unwrap().dtype;
    // llama.cpp's Q4_K_M keeps the output, here the embedding, and some of the value and down matrices at 6 bits.
    assert_eq!(dtype("token_embd.weight"), GgmlType::Q6K);
    assert_eq!(dtype("blk.0.attn_q.weight"), GgmlType::Q4K);
    assert_eq!(dtype("blk.0.ffn_down.weight"), GgmlType::Q6K);
    assert_eq!(dtype("blk.0.attn_norm.weight"), GgmlType::F32);
    let types: std::collections::BTreeSet<_> = file.tensors().iter().map(|tensor| tensor.dtype.name()).collect();
    assert_eq!(types.len(), 3, "{types:?}");
    assert_eq!(report.tensors.len(), file.tensors().len());
    assert!(report.bits_per_weight() > 4.5 && report.bits_per_weight() < 6.6, "{}", report.bits_per_weight());

    // Unit variance in, unit variance out.
    let tensor = file.tensor("blk.3.ffn_up.weight").unwrap();
    let values = dequantize_rows(tensor.dtype, file.data(tensor)).unwrap();
    let variance = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64;
    assert!((variance * 256.0 - 1.0).abs() < 0.03, "{variance}");
}

#[test]
fn presets_have_the_published_number_of_weights() {
    // Of the models' own cards and configurations; tied matrices once, vision towers left out.
    for (name, expected) in [
        ("smollm2-135m", 134_515_008),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-vl-2b", 1_720_574_976),
        ("qwen2.5-vl-3b", 3_085_938_688),
    ] {
        assert_eq!(SynthModel::preset(name).unwrap().n_weights(), expected, "{name}");
    }
    assert_eq!(SynthModel::preset("gpt-5").unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn shapes_that_no_model_has_and_stopped_work_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let tiny = SynthModel::tiny(Family::Qwen2Vl);
    for (name, model) in [
        ("layers", SynthModel { n_layers: 0, ..tiny.clone() }),
        ("kv-heads", SynthModel { n_kv_heads: 3, ..tiny.clone() }),
        ("kv-heads", SynthModel { n_kv_heads: 8, ..tiny.clone() }),
        ("head-dim", SynthModel { head_dim: 17, ..tiny.clone() }),
        ("head-dim", SynthModel { head_dim: 8, ..tiny.clone() }),
        ("vocab", SynthModel { n_vocab: 261, ..tiny.clone() }),
        ("rope-base", SynthModel { rope_base: f32::NAN, ..tiny.clone() }),
    ] {
        let error = write(&model, &path, &SynthOptions::default()).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(name), "{name}: {error}");
    }
    let cancel = CancelToken::new();
    cancel.cancel();
    let error = write(&tiny, &path, &SynthOptions { cancel, ..SynthOptions::default() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn image_encoders_fit_their_decoders() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mmproj) = (folder.path().join("model.gguf"), folder.path().join("mmproj-model.gguf"));
    let decoder = SynthModel { n_layers: 3, ..SynthModel::tiny(Family::Qwen3Vl) };
    write(&decoder, &path, &SynthOptions::default()).unwrap();
    let tower = |tower, decoder: &SynthModel| {
        synthesize_tower(&tower, decoder, &mmproj, &SynthOptions::default(), &mut |_| ()).map_err(|error| error.kind())
    };
    assert_eq!(tower(SynthTower::tiny(), &decoder), Ok(()));
    let model = Model::load(&path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).unwrap();
    let picture = Image::from_rgb(320, 256, vec![77; 320 * 256 * 3]).unwrap();
    let prompt = model.encode(&Prompt::user("What?", vec![picture]).unwrap()).unwrap();
    let data = prompt.segments.iter().find_map(|segment| match segment {
        Segment::Image(picture) => Some(&picture.data),
        Segment::Tokens(_) => None,
    });
    let data = data.unwrap();
    // Tokens of 32 pixels a side, three times as wide as the text for two features.
    assert_eq!(data.len(), 10 * 8 * 3 * 256);
    assert!(data.iter().all(|value| value.is_finite()) && data.iter().any(|&value| value != 0.0));

    let cases = [
        (SynthTower { n_layers: 1, ..SynthTower::tiny() }, decoder.clone(), ErrorKind::InvalidInput),
        (SynthTower { n_heads: 3, ..SynthTower::tiny() }, decoder.clone(), ErrorKind::InvalidInput),
        (SynthTower { n_ff: 0, ..SynthTower::tiny() }, decoder, ErrorKind::InvalidInput),
        (SynthTower::tiny(), SynthModel::tiny(Family::Qwen3), ErrorKind::Unsupported),
    ];
    for (index, (shape, decoder, kind)) in cases.into_iter().enumerate() {
        assert_eq!(tower(shape, &decoder), Err(kind), "case {index}");
    }
}
