//! A Hugging Face directory: `config.json` and the tensors of one or more safetensors files, memory-mapped.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use owlet_runtime::{Error, ErrorKind, MappedFile, Result};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::json;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// An open checkpoint. Headers are validated; tensor data is read from the maps when it is asked for.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) directory: PathBuf,
    pub(crate) config: Value,
    shards: Vec<MappedFile>,
    tensors: BTreeMap<String, Source>,
}

/// Where a tensor is and what it looks like.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    shard: usize,
    /// Bytes of the shard.
    range: std::ops::Range<usize>,
    pub(crate) dtype: SourceType,
    /// As written: the contiguous dimension last.
    pub(crate) shape: Vec<usize>,
}

/// The types of weights that checkpoints hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceType {
    F32,
    F16,
    BF16,
}

impl SourceType {
    pub(crate) fn n_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

impl Checkpoint {
    /// Opens `directory`.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `InvalidFile` for a broken header, an index that names what is not there, or a tensor that is
    /// in two files; `Unsupported` for weights that are not F32, F16 or BF16.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let config = json::read(&directory.join("config.json"))?;
        let index = json::read_optional(&directory.join(INDEX))?;
        let names = match &index {
            Some(index) => shard_names(index, &directory.join(INDEX))?,
            None => vec![SINGLE.to_owned()],
        };
        let mut shards = Vec::new();
        let mut tensors = BTreeMap::new();
        for name in names {
            let path = directory.join(&name);
            let bytes = MappedFile::open(&path)?;
            for (tensor, source) in read_header(&bytes, shards.len()).map_err(|error| error.at(path.display()))? {
                if tensors.insert(tensor.clone(), source).is_some() {
                    let error = Error::new(ErrorKind::InvalidFile, "a tensor is in two files").at(tensor);
                    return Err(error.at(path.display()));
                }
            }
            shards.push(bytes);
        }
        if let Some(index) = &index {
            check_index(index, &tensors, &directory.join(INDEX))?;
        }
        Ok(Self { directory: directory.to_owned(), config, shards, tensors })
    }

    /// All tensor names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor called `name`, which must have `shape`.
    ///
    /// # Errors
    /// `InvalidFile` when it is missing, `Mismatch` when its shape is another one.
    pub(crate) fn require(&self, name: &str, shape: &[usize]) -> Result<&Source> {
        let place = |error: Error| error.at(name).at(self.directory.display());
        let source = self.tensors.get(name);
        let source = source.ok_or_else(|| place(Error::new(ErrorKind::InvalidFile, "missing tensor")))?;
        if source.shape != shape {
            let error = place(Error::new(ErrorKind::Mismatch, "wrong tensor shape for config.json"));
            return Err(error.got(format!("{:?}", source.shape)).needed(format!("{shape:?}")));
        }
        Ok(source)
    }

    /// The bytes of a tensor of this checkpoint, little-endian.
    pub(crate) fn data(&self, source: &Source) -> &[u8] {
        &self.shards[source.shard][source.range.clone()]
    }
}

/// The files that an index names, sorted.
fn shard_names(index: &Value, path: &Path) -> Result<Vec<String>> {
    let map = weight_map(index, path)?;
    let mut names = Vec::new();
    for (tensor, name) in map {
        let refused = |error: Error| error.at(tensor).at(path.display()).got(name).needed("a file name");
        let name = name.as_str().ok_or_else(|| refused(Error::new(ErrorKind::InvalidFile, "wrong value")))?;
        // A name with a folder could point anywhere on the machine.
        if Path::new(name).file_name().is_none_or(|last| last != name) {
            return Err(refused(Error::new(ErrorKind::InvalidFile, "an index leaves its directory")));
        }
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn weight_map<'a>(index: &'a Value, path: &Path) -> Result<&'a serde_json::Map<String, Value>> {
    let map = index.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    map.ok_or_else(|| Error::new(ErrorKind::InvalidFile, "missing value").at("weight_map").at(path.display()))
}

fn check_index(index: &Value, tensors: &BTreeMap<String, Source>, path: &Path) -> Result<()> {
    match weight_map(index, path)?.keys().find(|name| !tensors.contains_key(*name)) {
        Some(name) => {
            let error = Error::new(ErrorKind::InvalidFile, "the index names a tensor that no file has");
            Err(error.at(name).at(path.display()))
        }
        None => Ok(()),
    }
}

fn read_header(bytes: &[u8], shard: usize) -> Result<HashMap<String, Source>> {
    let (header_bytes, metadata) = SafeTensors::read_metadata(bytes).map_err(|source| {
        let reason = source.to_string();
        Error::new(ErrorKind::InvalidFile, "not a valid safetensors file").got(reason).source(source)
    })?;
    let start = size_of::<u64>() + header_bytes;
    let mut tensors = HashMap::new();
    for (name, info) in metadata.tensors() {
        let dtype = match info.dtype {
            Dtype::F32 => SourceType::F32,
            Dtype::F16 => SourceType::F16,
            Dtype::BF16 => SourceType::BF16,
            other => {
                let error = Error::new(ErrorKind::Unsupported, "unsupported weights").at(name);
                return Err(error.got(format!("{other:?}")).needed("F32, F16 or BF16"));
            }
        };
        let range = start + info.data_offsets.0..start + info.data_offsets.1;
        tensors.insert(name, Source { shard, range, dtype, shape: info.shape.clone() });
    }
    Ok(tensors)
}
