//! The files of one checkpoint: hashed while they are written in a stream, read back only where the hash agrees.
//!
//! A checkpoint is taken while a run holds all of its memory, so that writing needs no copy of anything.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use owlet_runtime::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use super::RunIdentity;
use crate::{
    file::{self, AdapterFile, Precision, Provenance},
    lora::{LoraGrads, LoraWeights},
    optim::{AdamW, AdamWOptions},
};

/// Bytes that are written or hashed at a time.
const BUFFER: usize = 1 << 18;

/// Writes files into a folder and remembers their hashes.
pub(super) struct Writer<'a> {
    directory: &'a Path,
    pub(super) sha256: BTreeMap<String, String>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(directory: &'a Path) -> Self {
        Self { directory, sha256: BTreeMap::new() }
    }

    /// Writes the file `name` by `write`, to the disk itself.
    fn write(&mut self, name: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let path = self.directory.join(name);
        let failed = |source| Error::io("cannot write checkpoint", &path, source);
        let file = File::create(&path).map_err(failed)?;
        let mut output = BufWriter::with_capacity(BUFFER, Hashing { output: file, hasher: Sha256::new() });
        write(&mut output).map_err(|error| error.at(path.display()))?;
        let Hashing { output, hasher } = output.into_inner().map_err(|error| failed(error.into_error()))?;
        output.sync_all().map_err(failed)?;
        self.sha256.insert(name.to_owned(), hexadecimal(hasher));
        Ok(())
    }

    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, |output| output.write_all(bytes).map_err(failed))
    }

    /// The adapter of the run `run` after `step` steps.
    pub(super) fn adapter(&mut self, name: &str, run: &RunIdentity, step: u64, weights: &LoraWeights) -> Result<()> {
        let RunIdentity { base_model, architecture, config, seed, .. } = run;
        let provenance = Provenance { base_model: base_model.clone(), config: config.to_string(), step, seed: *seed };
        self.write(name, |output| {
            file::stream(architecture, weights, Some(&provenance), Precision::F32, output).map(drop)
        })
    }

    /// Numbers one behind the other, little-endian.
    pub(super) fn numbers<'t>(&mut self, name: &str, tensors: impl Iterator<Item = &'t [f32]>) -> Result<()> {
        self.write(name, |output| {
            let mut bytes = Vec::new();
            for part in tensors.flat_map(|tensor| tensor.chunks(BUFFER / size_of::<f32>())) {
                bytes.clear();
                bytes.extend(part.iter().flat_map(|value| value.to_le_bytes()));
                output.write_all(&bytes).map_err(failed)?;
            }
            Ok(())
        })
    }

    pub(super) fn moments(&mut self, name: &str, optimizer: &AdamW) -> Result<()> {
        self.numbers(name, optimizer.first.tensors().chain(optimizer.second.tensors()))
    }
}

fn failed(source: io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot write checkpoint").source(source)
}

/// Hashes what passes through.
struct Hashing<W> {
    output: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.output.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The files of one checkpoint, each checked against its hash.
pub(super) struct Files<'a> {
    pub(super) directory: &'a Path,
    pub(super) sha256: &'a BTreeMap<String, String>,
}

impl Files<'_> {
    fn damaged(&self, name: &str) -> Error {
        Error::new(ErrorKind::InvalidFile, "damaged checkpoint").at(self.directory.join(name).display())
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.sha256.contains_key(name)
    }

    /// # Errors
    /// `InvalidFile` for a file that is not as it was written; those of the disk.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        let failed = |source| Error::io("cannot read checkpoint", &path, source);
        let mut file = File::open(&path).map_err(failed)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = file.read(&mut buffer).map_err(failed)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
        }
        self.ensure(name, hexadecimal(hasher))
    }

    fn ensure(&self, name: &str, got: String) -> Result<()> {
        let needed = self.sha256.get(name).cloned().unwrap_or_default();
        if got == needed { Ok(()) } else { Err(self.damaged(name).got(got).needed(needed)) }
    }

    /// That all of them are whole.
    pub(super) fn check_all(&self) -> Result<()> {
        self.sha256.keys().try_for_each(|name| self.check(name))
    }

    pub(super) fn weights(&self, name: &str) -> Result<LoraWeights> {
        self.check(name)?;
        Ok(AdapterFile::open(&self.directory.join(name))?.weights)
    }

    pub(super) fn optimizer(
        &self,
        name: &str,
        options: AdamWOptions,
        weights: &LoraWeights,
        n_updates: u64,
    ) -> Result<AdamW> {
        let mut optimizer = AdamW::new(options, weights);
        optimizer.n_updates = n_updates;
        self.fill(name, optimizer.first.tensors_mut().chain(optimizer.second.tensors_mut()))?;
        Ok(optimizer)
    }

    pub(super) fn gradients(&self, name: &str, weights: &LoraWeights) -> Result<LoraGrads> {
        let mut gradients = LoraGrads::zeros(weights);
        self.fill(name, gradients.tensors_mut())?;
        Ok(gradients)
    }

    /// Reads numbers into `tensors`, which take all of the file.
    fn fill<'t>(&self, name: &str, tensors: impl Iterator<Item = &'t mut [f32]>) -> Result<()> {
        let path = self.directory.join(name);
        let bytes = fs::read(&path).map_err(|source| Error::io("cannot read checkpoint", &path, source))?;
        self.ensure(name, sha256(&bytes))?;
        let mut values = bytes.chunks(4);
        for slot in tensors.flatten() {
            let four = values.next().and_then(|four| four.try_into().ok());
            *slot = f32::from_le_bytes(four.ok_or_else(|| self.damaged(name).got("too few numbers"))?);
        }
        if values.next().is_some() { Err(self.damaged(name).got("too many numbers")) } else { Ok(()) }
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
