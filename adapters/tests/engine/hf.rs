//! Reference checkpoints and numbers of Hugging Face transformers, as the engine's names and orders want them.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use owlet_adapters::lora::{LoraConfig, LoraGrads, LoraModule, LoraWeights};
use owlet_runtime::{
    EncodedPrompt, ImageEmbedding, Segment, TokenId,
    gguf::{GgmlType, GgufFile, GgufWriter},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A tensor as PyTorch sees it, row-major.
#[derive(Clone)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// A model folder of the references.
pub(crate) struct Reference {
    folder: PathBuf,
    config: Value,
    pub(crate) lora: Value,
    is_llama: bool,
}

impl Reference {
    /// The reference called `name`: all of it from the folder beside the repository, or the part that the repository has.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folders = ["../../shared/golden/hf", "tests/golden"].map(|folder| crate_folder.join(folder).join(name));
        let Some(folder) = folders.into_iter().find(|folder| folder.is_dir()) else {
            // Not `eprintln`, which the test runner keeps to itself while tests pass.
            let _ = writeln!(std::io::stderr(), "skipped: no reference numbers for {name}");
            return None;
        };
        let read = |path: &str| serde_json::from_slice(&fs::read(folder.join(path)).unwrap()).unwrap();
        let config: Value = read("model/config.json");
        let is_llama = config["model_type"] == "llama";
        Some(Self { lora: read("lora/lora.json"), config, is_llama, folder })
    }

    /// Whether the gradients of `run` are there.
    pub(crate) fn has(&self, run: &str) -> bool {
        self.folder.join(format!("lora/grad_{run}.safetensors")).is_file()
    }

    /// Whether the prompt of `case` is there.
    pub(crate) fn has_case(&self, case: &str) -> bool {
        self.folder.join(format!("golden/{case}.safetensors")).is_file()
    }

    /// The adapter after three steps of AdamW on the loss of `run`, if it is there.
    pub(crate) fn after_three_steps(&self, run: &str) -> Option<Vec<(String, (Array, Array))>> {
        let file = format!("lora/after3_{run}.safetensors");
        self.folder.join(&file).is_file().then(|| self.factors(&file))
    }

    fn text_config(&self) -> &Value {
        self.config.get("text_config").unwrap_or(&self.config)
    }

    fn size(&self, key: &str) -> usize {
        self.text_config()[key].as_u64().unwrap() as usize
    }

    /// The language model as a GGUF file in memory, in F32.
    pub(crate) fn gguf(&self) -> Arc<GgufFile> {
        let config = self.text_config();
        let architecture = match self.config["model_type"].as_str().unwrap() {
            "qwen3_vl" => "qwen3vl",
            other => other,
        };
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", architecture);
        let mut set = |key: &str, value: u32| {
            writer.set(format!("{architecture}.{key}"), value);
        };
        set("block_count", self.size("num_hidden_layers") as u32);
        set("embedding_length", self.size("hidden_size") as u32);
        set("feed_forward_length", self.size("intermediate_size") as u32);
        set("attention.head_count", self.size("num_attention_heads") as u32);
        set("attention.head_count_kv", self.size("num_key_value_heads") as u32);
        set("attention.key_length", self.size("head_dim") as u32);
        let mut set = |key: &str, value: f64| {
            writer.set(format!("{architecture}.{key}"), value as f32);
        };
        set("rope.freq_base", config["rope_theta"].as_f64().unwrap());
        set("attention.layer_norm_rms_epsilon", config["rms_norm_eps"].as_f64().unwrap());
        if let Some(sections) = config["rope_scaling"]["mrope_section"].as_array() {
            let mut sections: Vec<i32> = sections.iter().map(|n| n.as_i64().unwrap() as i32).collect();
            sections.push(0);
            writer.set(format!("{architecture}.rope.dimension_sections"), sections);
            let levels = self.config["vision_config"]["deepstack_visual_indexes"].as_array().unwrap().len();
            writer.set(format!("{architecture}.n_deepstack_layers"), levels as u32);
        }
        let mut tensors: Vec<(String, Array)> = fs::read_dir(self.folder.join("model"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
            .flat_map(|path| read_safetensors(&path))
            .filter_map(|(name, array)| Some((gguf_name(&name)?, array)))
            .collect();
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, array) in &mut tensors {
            self.to_gguf_order(name, array);
            let shape: Vec<u64> = array.shape.iter().rev().map(|&n| n as u64).collect();
            writer.declare(name, &shape, GgmlType::F32).unwrap();
        }
        let mut stream = writer.start(Vec::new()).unwrap();
        for (name, array) in &tensors {
            stream.write_tensor(name, bytemuck::cast_slice(&array.values)).unwrap();
        }
        Arc::new(GgufFile::from_bytes(stream.finish().unwrap()).unwrap())
    }

    /// llama's GGUF files pair neighbouring elements of a head, its checkpoints pair halves.
    pub(crate) fn to_gguf_order(&self, name: &str, array: &mut Array) {
        let n_heads = match name {
            _ if !self.is_llama => return,
            name if name.contains("attn_q.") => self.size("num_attention_heads"),
            name if name.contains("attn_k.") => self.size("num_key_value_heads"),
            _ => return,
        };
        let width = array.shape[1];
        let half = array.shape[0] / n_heads / 2;
        let row = |row: usize| &array.values[row * width..(row + 1) * width];
        let order = (0..n_heads)
            .flat_map(|head| (0..half).flat_map(move |i| [(2 * head) * half + i, (2 * head + 1) * half + i]));
        array.values = order.flat_map(row).copied().collect();
    }

    /// The adapter of the references.
    pub(crate) fn adapter(&self) -> LoraWeights {
        let config = LoraConfig {
            rank: self.lora["config"]["r"].as_u64().unwrap() as usize,
            alpha: self.lora["config"]["lora_alpha"].as_f64().unwrap() as f32,
            ..LoraConfig::default()
        };
        let pairs = self.factors("lora/adapter/adapter_model.safetensors");
        let module = |(name, (a, b)): (String, (Array, Array))| LoraModule {
            n_in: a.shape[1],
            n_out: b.shape[0],
            name,
            a: a.values,
            b: b.values,
        };
        LoraWeights { config, modules: pairs.into_iter().map(module).collect() }
    }

    /// Pairs of A and B, of weights or gradients, by tensor name in a fixed order.
    pub(crate) fn factors(&self, file: &str) -> Vec<(String, (Array, Array))> {
        let arrays: HashMap<_, _> = read_safetensors(&self.folder.join(file)).into_iter().collect();
        let mut pairs: Vec<_> = arrays
            .iter()
            .filter_map(|(name, a)| {
                let module = name.strip_suffix(".lora_A.weight")?;
                let mut b = arrays[&format!("{module}.lora_B.weight")].clone();
                let name = gguf_name(&format!("{}.weight", module.strip_prefix("base_model.model.")?)).unwrap();
                self.to_gguf_order(&name, &mut b);
                Some((name, (a.clone(), b)))
            })
            .collect();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs
    }

    /// The prompt of case `case`, with the reference's own image embeddings.
    pub(crate) fn prompt(&self, case: &str) -> EncodedPrompt {
        let path = self.folder.join("golden").join(format!("{case}.safetensors"));
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let ints = |name: &str| -> Option<Vec<i32>> {
            let view = file.tensor(name).ok()?;
            assert_eq!(view.dtype(), Dtype::I32);
            Some(bytemuck::pod_collect_to_vec(view.data()))
        };
        let ids = ints("input_ids").unwrap();
        let Some(grids) = ints("image_grid_thw") else { return EncodedPrompt::from_tokens(ids) };
        let levels: Vec<Array> = std::iter::once("vision_embeds".to_owned())
            .chain((0..).map(|level| format!("deepstack_{level}")))
            .map_while(|name| Some(to_array(&file.tensor(&name).ok()?)))
            .collect();
        let width = levels[0].shape[1];
        let image_id = self.config["image_token_id"].as_i64().unwrap() as i32;
        let mut grids = grids.chunks(3);
        let mut segments = Vec::new();
        let (mut place, mut row) = (0, 0);
        while place < ids.len() {
            if ids[place] == image_id {
                let grid = grids.next().unwrap();
                let (grid_h, grid_w) = (grid[1] as u32 / 2, grid[2] as u32 / 2);
                let n_tokens = (grid_h * grid_w) as usize;
                let part =
                    |row: usize| levels.iter().flat_map(move |level| &level.values[row * width..(row + 1) * width]);
                let data = (row..row + n_tokens).flat_map(part).copied().collect();
                let width_embd = width * levels.len();
                segments.push(Segment::Image(Arc::new(ImageEmbedding {
                    n_tokens,
                    grid_w,
                    grid_h,
                    width_embd,
                    data,
                    encode_ms: 0.0,
                })));
                place += n_tokens;
                row += n_tokens;
            } else {
                let tokens: Vec<TokenId> = ids[place..].iter().copied().take_while(|&id| id != image_id).collect();
                place += tokens.len();
                segments.push(Segment::Tokens(tokens));
            }
        }
        EncodedPrompt { segments }
    }

    /// Token lists of a run: one completion, or those of a group.
    pub(crate) fn completions(&self, run: &str) -> Vec<Vec<TokenId>> {
        lists(&self.lora["runs"][run]["completion_ids"])
            .into_iter()
            .map(|list| list.iter().map(|&id| id as i32).collect())
            .collect()
    }

    /// Numbers per token of a run.
    pub(crate) fn numbers(&self, run: &str, key: &str) -> Vec<Vec<f32>> {
        lists(&self.lora["runs"][run][key]).into_iter().map(|list| list.iter().map(|&x| x as f32).collect()).collect()
    }
}

/// A list of lists; a bare list counts as one.
fn lists(value: &Value) -> Vec<Vec<f64>> {
    let list = |value: &Value| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    match value[0].is_array() {
        true => value.as_array().unwrap().iter().map(list).collect(),
        false => vec![list(value)],
    }
}

/// The GGUF name of a tensor of the language model.
pub(crate) fn gguf_name(name: &str) -> Option<String> {
    if name.starts_with("model.visual.") {
        return None;
    }
    if name == "lm_head.weight" {
        return Some("output.weight".into());
    }
    let name = name.strip_prefix("model.")?;
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    Some(match name {
        "embed_tokens.weight" => "token_embd.weight".into(),
        "norm.weight" => "output_norm.weight".into(),
        _ => {
            let (layer, part) = name.strip_prefix("layers.")?.split_once('.')?;
            let part = match part.strip_suffix(".weight")? {
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" => "ffn_norm",
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" => "attn_output",
                "self_attn.q_norm" => "attn_q_norm",
                "self_attn.k_norm" => "attn_k_norm",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" => "ffn_up",
                "mlp.down_proj" => "ffn_down",
                other => panic!("unknown tensor {other}"),
            };
            format!("blk.{layer}.{part}.weight")
        }
    })
}

pub(crate) fn read_safetensors(path: &Path) -> Vec<(String, Array)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().iter().map(|(name, view)| (name.clone(), to_array(view))).collect()
}

fn to_array(view: &safetensors::tensor::TensorView) -> Array {
    let values = match view.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec(view.data()),
        Dtype::BF16 => {
            view.data().chunks(2).map(|b| f32::from_bits(u32::from(b[0]) << 16 | u32::from(b[1]) << 24)).collect()
        }
        other => panic!("unexpected {other:?}"),
    };
    Array { shape: view.shape().to_vec(), values }
}

/// Relative L2 error of every tensor of `got`; the order is that of [`Reference::factors`].
pub(crate) fn errors(got: &LoraGrads, expected: &[(String, (Array, Array))]) -> Vec<(String, f64)> {
    let mut errors = Vec::new();
    for (module, (name, (a, b))) in got.modules.iter().zip(expected) {
        errors.push((format!("{name} A"), relative_error(&module.a, &a.values)));
        errors.push((format!("{name} B"), relative_error(&module.b, &b.values)));
    }
    errors
}

/// `|got - expected| / |expected|` in L2.
pub(crate) fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(expected).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = expected.iter().map(|&b| square(f64::from(b))).sum();
    (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
}
