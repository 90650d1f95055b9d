use super::*;

fn tensors() -> Vec<(String, usize, usize)> {
    vec![
        ("blk.0.attn_q.weight".into(), 16, 8),
        ("blk.0.ffn_down.weight".into(), 32, 16),
        ("output.weight".into(), 16, 99),
    ]
}

#[test]
fn a_fresh_adapter_is_seeded_bounded_and_changes_nothing() {
    let config = LoraConfig { rank: 4, ..LoraConfig::default() };
    let weights = LoraWeights::init(&config, &tensors(), 7).expect("valid configuration");
    assert_eq!(weights, LoraWeights::init(&config, &tensors(), 7).expect("valid configuration"));
    assert_ne!(weights, LoraWeights::init(&config, &tensors(), 8).expect("valid configuration"));
    assert_eq!(weights.modules.len(), 2, "only tensors of a block are targets");
    assert_eq!(weights.n_parameters(), 4 * (16 + 8) + 4 * (32 + 16));
    for module in &weights.modules {
        let bound = 1.0 / (module.n_in as f32).sqrt();
        assert!(module.a.iter().all(|value| value.abs() <= bound));
        assert!(module.a.iter().any(|value| value.abs() > bound / 2.0));
        assert!(module.b.iter().all(|&value| value == 0.0));
    }
}

#[test]
fn configurations_out_of_range_are_refused() {
    let base = LoraConfig::default();
    for config in [
        LoraConfig { rank: 0, ..base.clone() },
        LoraConfig { rank: 257, ..base.clone() },
        LoraConfig { alpha: 0.0, ..base.clone() },
        LoraConfig { alpha: f32::NAN, ..base.clone() },
        LoraConfig { alpha: f32::INFINITY, ..base.clone() },
        LoraConfig { targets: BTreeSet::new(), ..base.clone() },
        LoraConfig { mode: LoraMode::Activated { invocation: vec![1; 257] }, ..base.clone() },
        LoraConfig { mode: LoraMode::Activated { invocation: vec![-1] }, ..base.clone() },
        LoraConfig { layers: Some(LayerRange { first: 2, last: 1 }), ..base.clone() },
    ] {
        let error = config.validate().expect_err("out of range");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{config:?}");
    }
    assert!(base.validate().is_ok());
}

#[test]
fn a_range_of_layers_confines_the_adapter() {
    let tensors: Vec<_> = (0..12).map(|layer| (format!("blk.{layer}.attn_q.weight"), 4, 4)).collect();
    let with = |layers: &str| LoraConfig { layers: Some(layers.parse().expect("a range")), ..LoraConfig::default() };
    let weights = LoraWeights::init(&with("9-10"), &tensors, 0).expect("layers of the model");
    let names: Vec<_> = weights.modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["blk.9.attn_q.weight", "blk.10.attn_q.weight"]);
    let error = LoraWeights::init(&with("9-12"), &tensors, 0).expect_err("there are 12 layers");
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    for bad in ["", "3", "4-3", "a-b", "-1-3", "1-"] {
        assert!(bad.parse::<LayerRange>().is_err(), "{bad}");
    }
}

/// Readers of adapter files compute alpha / rank.
#[test]
fn a_rank_stabilized_adapter_is_an_ordinary_one_of_the_same_strength() {
    for (rank, expected) in [(1, 3.0), (4, 1.5), (16, 0.75), (64, 0.375)] {
        let config = LoraConfig { rank, alpha: 3.0, rank_stabilized: true, ..LoraConfig::default() };
        assert_eq!(config.scaling(), expected);
        let weights = LoraWeights::init(&config, &tensors(), 0).expect("valid configuration");
        assert_eq!(weights.config.alpha / rank as f32, expected);
        assert_eq!(weights.scaling(), config.scaling());
    }
}

#[test]
fn target_names_go_both_ways() {
    for target in Target::ALL {
        assert_eq!(target.name().parse::<Target>().expect("own name"), target);
        assert_eq!(Target::of_tensor(&format!("blk.12.{}.weight", target.tensor_name())), Some(target));
    }
    for tensor in ["blk.x.attn_q.weight", "blk.1.attn_q.bias", "attn_q.weight", "blk.1.attn_norm.weight"] {
        assert_eq!(Target::of_tensor(tensor), None, "{tensor}");
    }
}

#[test]
fn gradients_accumulate_and_measure() {
    let config = LoraConfig { rank: 1, targets: [Target::Q].into(), ..LoraConfig::default() };
    let weights = LoraWeights::init(&config, &tensors(), 0).expect("valid configuration");
    let mut ones = LoraGrads::zeros(&weights);
    ones.tensors_mut().for_each(|tensor| tensor.fill(1.0));
    let mut sum = LoraGrads::zeros(&weights);
    sum.add_scaled(&ones, 2.0);
    sum.add_scaled(&ones, -0.5);
    assert!((sum.global_norm() - 1.5 * 24f64.sqrt()).abs() < 1e-12);
    sum.modules[0].b[3] = f32::NAN;
    assert!(sum.global_norm().is_nan());
    sum.zero();
    assert_eq!(sum, LoraGrads::zeros(&weights));
}

#[test]
fn a_hash_is_of_all_that_an_adapter_does() {
    let config = LoraConfig { rank: 2, alpha: 4.0, ..LoraConfig::default() };
    let weights = LoraWeights::init(&config, &tensors(), 0).expect("valid configuration");
    let with = |change: fn(&mut LoraWeights)| {
        let mut weights = weights.clone();
        change(&mut weights);
        weights.hash()
    };
    assert_eq!(with(|_| ()), weights.hash());
    let changes: [fn(&mut LoraWeights); 5] = [
        |weights| weights.config.alpha = 8.0,
        |weights| weights.config.mode = LoraMode::Activated { invocation: vec![1] },
        |weights| weights.config.mode = LoraMode::Activated { invocation: vec![1, 2] },
        |weights| weights.modules[1].name.push('x'),
        |weights| weights.modules[0].b[3] = 1.0,
    ];
    let mut hashes: Vec<_> = changes.into_iter().map(with).chain([weights.hash()]).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 6);

    // Two spellings of one strength, of which files have the second.
    let spelled = |alpha, rank_stabilized| {
        let mut weights = LoraWeights::init(&LoraConfig { rank: 4, ..config.clone() }, &tensors(), 0).expect("valid");
        (weights.config.alpha, weights.config.rank_stabilized) = (alpha, rank_stabilized);
        weights.hash()
    };
    assert_eq!(spelled(4.0, true), spelled(8.0, false));
}
