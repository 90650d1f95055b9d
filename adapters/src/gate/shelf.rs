//! The folder behind a gate: which adapter is live, those before it, and a candidate that waits.
//!
//! | file | content |
//! |---|---|
//! | `gate.json` | [`State`]: which file is what |
//! | `gate-000007.gguf` | an adapter, written once and never changed |
//! | `lock` | the process that has the folder |
//!
//! `gate.json` is replaced by a rename, after the files that it names are on the disk and before files that it names no
//! more are removed. Whoever is killed in between leaves the state before or the one after, each with all of its files;
//! what nobody names is removed when the folder is opened next.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use owlet_runtime::{AtomicFile, Error, ErrorKind, Result, gguf::GgufFile};
use serde::{Deserialize, Serialize};

use crate::{checkpoint::sync_directory, lock::FolderLock};

/// Version of `gate.json` that we write and read.
const VERSION: u32 = 1;
const STATE: &str = "gate.json";
const PREFIX: &str = "gate-";
const SUFFIX: &str = ".gguf";
/// Older adapters that are kept for a rollback.
const KEPT_BEFORE: usize = 2;

/// An adapter in the folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Name of its file.
    file: String,
    /// [`GgufFile::content_hash`] of it.
    pub(super) hash: String,
    /// Hash of the base model that it was judged over.
    pub(super) base_model: String,
}

impl Kept {
    pub(super) fn path_in(&self, directory: &Path) -> PathBuf {
        directory.join(&self.file)
    }
}

/// `gate.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Number of the next file.
    next: u64,
    /// Live now; `None` for the base.
    pub(super) live: Option<Kept>,
    /// Live before, the newest last.
    before: Vec<Kept>,
    /// Accepted, and not live yet.
    pub(super) candidate: Option<Kept>,
}

impl Default for State {
    fn default() -> Self {
        Self { version: VERSION, next: 0, live: None, before: Vec::new(), candidate: None }
    }
}

impl State {
    /// # Errors
    /// `InvalidFile`, `Unsupported`, `Io`.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u32,
        }
        let path = directory.join(STATE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            bytes => bytes.map_err(|source| Error::io("cannot read gate", &path, source))?,
        };
        let damaged = |source| Error::new(ErrorKind::InvalidFile, "damaged gate").at(path.display()).source(source);
        // The version first: the rest of another version may have another shape.
        let version: VersionOnly = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version.version != VERSION {
            let error = Error::new(ErrorKind::Unsupported, "the gate is of another version").at(path.display());
            return Err(error.got(version.version).needed(VERSION));
        }
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    /// The candidate goes live, and what is live now is kept.
    pub(super) fn activated(mut self) -> Option<Self> {
        let candidate = self.candidate.take()?;
        self.before.extend(self.live.replace(candidate));
        let n_old = self.before.len().saturating_sub(KEPT_BEFORE);
        self.before.drain(..n_old);
        Some(self)
    }

    /// The adapter before goes live, or the base where there is none; what is live now is forgotten, and a candidate that
    /// was compared with it too.
    pub(super) fn rolled_back(mut self) -> Option<Self> {
        self.live.take()?;
        self.live = self.before.pop();
        self.candidate = None;
        Some(self)
    }

    pub(super) fn without_candidate(self) -> Self {
        Self { candidate: None, ..self }
    }

    fn names(&self, file: &str) -> bool {
        self.live.iter().chain(&self.before).chain(&self.candidate).any(|kept| kept.file == file)
    }
}

/// The folder, which is this process's own.
#[derive(Debug)]
pub(super) struct Shelf {
    directory: PathBuf,
    pub(super) state: State,
    _lock: FolderLock,
}

impl Shelf {
    /// Makes or takes over `directory`. An adapter that is live and damaged is rolled back; gives the paths of such.
    ///
    /// # Errors
    /// `Busy` if another process has it; `InvalidFile` and `Unsupported` for a `gate.json` that cannot be read; `Io`.
    pub(super) fn open(directory: &Path) -> Result<(Self, Vec<PathBuf>)> {
        fs::create_dir_all(directory).map_err(|source| Error::io("cannot create gate", directory, source))?;
        let lock = FolderLock::take(directory)?;
        let state = State::read(directory)?;
        let mut shelf = Self { directory: directory.to_owned(), state, _lock: lock };
        let damaged = shelf.drop_damaged()?;
        shelf.remove_unnamed();
        Ok((shelf, damaged))
    }

    pub(super) fn path(&self, kept: &Kept) -> PathBuf {
        kept.path_in(&self.directory)
    }

    /// Replaces the state, for good once this returns.
    pub(super) fn commit(&mut self, state: State) -> Result<()> {
        let path = self.directory.join(STATE);
        let mut file = AtomicFile::create(&path)?;
        let bytes = serde_json::to_vec_pretty(&state).expect("names and numbers are always JSON");
        file.write_all(&bytes).map_err(|source| Error::io("cannot write gate", &path, source))?;
        file.commit()?;
        sync_directory(&self.directory)?;
        self.state = state;
        self.remove_unnamed();
        Ok(())
    }

    /// A copy of the file at `path` under a name that nothing refers to.
    pub(super) fn copy(&mut self, path: &Path) -> Result<PathBuf> {
        let copy = self.directory.join(name(self.state.next));
        let mut input = File::open(path).map_err(|source| Error::io("cannot read adapter", path, source))?;
        let mut output = AtomicFile::create(&copy)?;
        io::copy(&mut input, &mut output).map_err(|source| Error::io("cannot copy adapter", path, source))?;
        output.commit()?;
        Ok(copy)
    }

    /// Makes the last copy the candidate.
    pub(super) fn admit(&mut self, hash: String, base_model: String) -> Result<()> {
        let file = name(self.state.next);
        let candidate = Some(Kept { file, hash, base_model });
        self.commit(State { next: self.state.next + 1, candidate, ..self.state.clone() })
    }

    /// Whether the file of `kept` has the bytes that it was judged with.
    fn is_whole(&self, kept: &Kept) -> bool {
        GgufFile::open(self.path(kept)).is_ok_and(|file| file.content_hash().is_ok_and(|hash| hash == kept.hash))
    }

    fn drop_damaged(&mut self) -> Result<Vec<PathBuf>> {
        let mut damaged = Vec::new();
        let mut state = self.state.clone();
        while let Some(live) = state.live.as_ref().filter(|live| !self.is_whole(live)) {
            tracing::warn!(file = live.file, "the live adapter is damaged");
            damaged.push(self.path(live));
            state = state.rolled_back().unwrap_or_default();
        }
        if !damaged.is_empty() {
            self.commit(state)?;
        }
        Ok(damaged)
    }

    /// Removes files that the state does not name: those of killed processes, and what is no longer kept. One that cannot
    /// be removed now is tried again by the next call.
    pub(super) fn remove_unnamed(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let is_unnamed = is_ours(name) && !self.state.names(name);
            if (is_unnamed || AtomicFile::is_temporary(name))
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "cannot remove an adapter that is not in use");
            }
        }
    }
}

/// Of the file with `number`.
fn name(number: u64) -> String {
    format!("{PREFIX}{number:06}{SUFFIX}")
}

/// Whether a file of this name is one that we wrote, and may remove: the folder may have others, too.
fn is_ours(name: &str) -> bool {
    let number = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    number.is_some_and(|number| number.len() >= 6 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
