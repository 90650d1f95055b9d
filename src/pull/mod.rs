//! Models from the Hugging Face Hub, a mirror or any address, to files that are whole, checked and ready to run.
//!
//! 1. `source` reads what a person names, `choice` picks the model and its projector from the list of files.
//! 2. `client` speaks HTTP, through what `proxy` finds; `trouble` tells what passes from what stays, `patience` waits in
//!    between.
//! 3. `transfer` fills a `part`, which lies beside the file's place under a name that holds a digest of the content's
//!    identity (the hub's SHA-256, or a strong ETag). An interrupted part is continued where server and content allow.
//! 4. The whole part is checked (SHA-256 where one is known, the GGUF header against the length always), then renamed.
//!
//! Nothing here prints; [`PullEvent`] tells a caller what happens. The names of a server's list are taken as hostile.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use owlet_runtime::{CancelToken, Error, ErrorKind, Result, gguf::GgufFile};
use serde::{Deserialize, Serialize};

mod choice;
mod client;
mod part;
mod patience;
mod proxy;
mod source;
mod transfer;
mod trouble;

pub use choice::{Choice, Projector, RemoteFile, choose};
pub use source::Source;

use client::{Client, is_sha256};
use patience::Patience;
use source::without_secrets;
use transfer::{Job, ensure_room};

/// The Hugging Face Hub.
pub const HUB: &str = "https://huggingface.co";
/// How often a cancelled transfer is noticed while it waits.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// How a model is pulled.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Where `hf:` repositories are; default [`HUB`].
    pub endpoint: String,
    /// A token for gated and private repositories, sent to the endpoint alone and only by https (or to this machine).
    pub token: Option<String>,
    /// The folder that takes the files and is made where it does not exist; default: one of the repository's name, for
    /// addresses the current one.
    pub out: Option<PathBuf>,
    /// Which projector comes with a model of a repository; for an address none can be named.
    pub projector: Projector,
    /// SHA-256 of the (one) file in hexadecimal; default: what the hub tells.
    pub sha256: Option<String>,
    /// Replace files that exist; default false.
    pub force: bool,
    /// Tries in vain before giving up, each after twice the pause; default 5. A try that got 64 KiB further than all
    /// before is none in vain. While no server has answered at all, none follows: there is no network then.
    pub retries: u32,
    /// The first pause; default one second.
    pub backoff: Duration,
    /// Longest wait for a connection, a response or more bytes; default 30 seconds.
    pub stall: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            endpoint: HUB.to_owned(),
            token: None,
            out: None,
            projector: Projector::Auto,
            sha256: None,
            force: false,
            retries: 5,
            backoff: Duration::from_secs(1),
            stall: Duration::from_secs(30),
        }
    }
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRole {
    /// Weights of a language model.
    Model,
    /// The image projector of one.
    Projector,
}

/// A file that is there, whole and checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PulledFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is for, by its header.
    pub role: FileRole,
    /// `general.architecture` of its header.
    pub architecture: String,
    /// Its length.
    pub n_bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Whether the hash was compared with one that the hub or the caller told.
    pub verified: bool,
    /// Whether it was there before, so that nothing was downloaded.
    pub was_there: bool,
    /// Whether the first bytes were of an interrupted run.
    pub resumed: bool,
}

/// What happens, as it happens.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PullEvent<'a> {
    /// Files of a repository were picked.
    Chosen {
        /// Their paths in the repository, the model first.
        files: Vec<&'a str>,
        /// Their lengths together, where the server tells.
        total_bytes: Option<u64>,
        /// What else could have been picked.
        others: &'a [String],
    },
    /// An interrupted transfer goes on.
    Resumed {
        /// The file's name.
        file: &'a str,
        /// Bytes that are there.
        n_bytes: u64,
    },
    /// More bytes, at most ten times a second.
    Progress {
        /// The file's name.
        file: &'a str,
        /// Bytes that are there.
        n_bytes: u64,
        /// Bytes of all, where the server tells.
        total_bytes: Option<u64>,
        /// Mean rate of this connection.
        bytes_per_s: f64,
        /// Seconds to the end at that rate.
        seconds_left: Option<f64>,
    },
    /// What was there is of no use.
    StartedOver {
        /// The file's name.
        file: &'a str,
        /// The reason.
        why: &'a str,
    },
    /// A try failed, another follows.
    Retrying {
        /// The file's name, or the repository's.
        file: &'a str,
        /// What went wrong.
        error: String,
        /// The pause before.
        pause_s: f64,
    },
    /// A file was not finished, but the next call can go on with what is there, if the server still has the same.
    Kept {
        /// The file's name.
        file: &'a str,
        /// Bytes that are there.
        n_bytes: u64,
    },
    /// A file is there.
    Finished {
        /// The file.
        file: &'a PulledFile,
    },
}

/// Pulls what `source` names: a model with the projector that belongs to it, or one file. The model comes first.
///
/// Cancelling leaves a part that the next call goes on with, and is noticed within a tenth of a second while bytes are waited
/// for; looking up a host's name and connecting to it end by [`PullOptions::stall`].
///
/// # Errors
/// `Network` (also a server that refuses), `NotFound`, `InvalidFile` (wrong checksum, not GGUF), `Mismatch` (a server that
/// contradicts itself), `Limit` (disk), `InvalidInput` (options, a choice that is left open, another file in the place),
/// `Unsupported`, `Busy`, `Io`, `Cancelled`.
pub fn pull(
    source: &Source,
    options: &PullOptions,
    cancel: &CancelToken,
    on_event: &mut dyn FnMut(PullEvent<'_>),
) -> Result<Vec<PulledFile>> {
    if let Some(sha256) = options.sha256.as_deref().filter(|text| !is_sha256(text)) {
        let error = Error::new(ErrorKind::InvalidInput, "not a SHA-256").got(sha256);
        return Err(error.needed("64 hexadecimal digits"));
    }
    if let (Source::Url { .. }, Projector::Named(name)) = (source, &options.projector) {
        let error = Error::new(ErrorKind::InvalidInput, "no projector can be picked beside an address").got(name);
        return Err(error.needed("a second pull, of the projector's own address"));
    }
    let client = Client::new(&options.endpoint, options.token.as_deref(), options.stall)?;
    let agent = client.agent();
    thread::scope(|scope| {
        // Dropped when the work ends, however it ends.
        let (working, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(WATCH_EVERY) == Err(RecvTimeoutError::Timeout) {
                if cancel.is_cancelled() {
                    return agent.shutdown();
                }
            }
        });
        let pulled = match source {
            Source::Hub { repo, revision, wanted } => {
                Pull { client, options, cancel }.repository(repo, revision, wanted.as_deref(), on_event)
            }
            Source::Url { url, name } => {
                let pull = Pull { client, options, cancel };
                let folder = options.out.as_deref().unwrap_or(Path::new("."));
                let file = RemoteFile { path: name.clone(), n_bytes: None, sha256: None };
                make_folder(folder).and_then(|()| Ok(vec![pull.file(url, &file, folder, on_event)?]))
            }
        };
        drop(working);
        pulled
    })
}

struct Pull<'a> {
    client: Client,
    options: &'a PullOptions,
    cancel: &'a CancelToken,
}

/// The hub's description of a repository, as far as it is needed.
#[derive(Deserialize)]
struct Listing {
    /// The commit that the revision stands for.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
}

impl Pull<'_> {
    fn repository(
        &self,
        repo: &str,
        revision: &str,
        wanted: Option<&str>,
        on_event: &mut dyn FnMut(PullEvent<'_>),
    ) -> Result<Vec<PulledFile>> {
        let listing = self.listing(repo, revision, on_event)?;
        let files: Vec<RemoteFile> = listing.siblings.into_iter().map(RemoteFile::from).collect();
        let choice = choose(&files, wanted, &self.options.projector).map_err(|error| error.at(format!("hf:{repo}")))?;
        let chosen: Vec<&RemoteFile> = [Some(&choice.model), choice.projector.as_ref()].into_iter().flatten().collect();
        if self.options.sha256.is_some() && chosen.len() > 1 {
            let error = Error::new(ErrorKind::InvalidInput, "a SHA-256 is that of one file").got("model and projector");
            return Err(error.needed("a pull without projector, or none: the hub tells the hashes"));
        }
        let total_bytes = chosen.iter().try_fold(0u64, |sum, file| sum.checked_add(file.n_bytes?));
        let files = chosen.iter().map(|file| file.path.as_str()).collect();
        on_event(PullEvent::Chosen { files, total_bytes, others: &choice.others });

        let name = repo.rsplit('/').next().unwrap_or(repo);
        let folder = self.options.out.clone().unwrap_or_else(|| PathBuf::from(name));
        make_folder(&folder)?;
        self.ensure_room_for_all(&chosen, &folder)?;
        let pulled = chosen.iter().map(|file| {
            // By commit, so that model and projector are of one version.
            self.file(&self.client.file_url(repo, &listing.sha, &file.path), file, &folder, on_event)
        });
        pulled.collect()
    }

    /// Fails before the first file where the disk has no room for all that are not there yet.
    fn ensure_room_for_all(&self, files: &[&RemoteFile], folder: &Path) -> Result<()> {
        let mut n_missing = 0u64;
        for file in files {
            let target = folder.join(file.name());
            if target.exists() && !self.options.force {
                continue;
            }
            let n_there = part::newest(&target)?.map_or(0, |(_, n_bytes)| n_bytes);
            n_missing = n_missing.saturating_add(file.n_bytes.unwrap_or(0).saturating_sub(n_there));
        }
        ensure_room(folder, n_missing)
    }

    fn listing(&self, repo: &str, revision: &str, on_event: &mut dyn FnMut(PullEvent<'_>)) -> Result<Listing> {
        let url = self.client.listing_url(repo, revision);
        let mut patience = Patience::new(&self.client, self.options, self.cancel);
        let bytes = loop {
            match self.client.document(&url) {
                Ok(bytes) => break bytes,
                Err(trouble) => patience.endure(trouble, 0, &mut |error, pause| {
                    on_event(PullEvent::Retrying { file: repo, error, pause_s: pause.as_secs_f64() });
                })?,
            }
        };
        serde_json::from_slice(&bytes).map_err(|source| {
            let error = Error::new(ErrorKind::Mismatch, "the server does not speak the hub's language");
            let error = error.at(without_secrets(&url));
            error.needed("a list of files in JSON").source(source)
        })
    }

    fn file(
        &self,
        url: &str,
        file: &RemoteFile,
        folder: &Path,
        on_event: &mut dyn FnMut(PullEvent<'_>),
    ) -> Result<PulledFile> {
        let target = folder.join(file.name());
        let job = Job {
            client: &self.client,
            url,
            name: file.name(),
            target: &target,
            n_bytes: file.n_bytes,
            sha256: file.sha256.as_deref(),
            options: self.options,
            cancel: self.cancel,
        };
        let there = if target.exists() && !self.options.force { Some(self.compare(&job)?) } else { None };
        let pulled = match there {
            Some(file) => file,
            None => {
                let fetched = job.fetch(on_event)?;
                let n_bytes = fetched.part.n_bytes();
                let checked = inspect(fetched.part.path(), file.name());
                let (role, architecture) = match checked {
                    Ok(checked) => checked,
                    Err(error) => {
                        fetched.part.remove();
                        return Err(error);
                    }
                };
                fetched.part.commit(&target, self.options.force)?;
                let (sha256, verified) = (fetched.sha256, fetched.verified);
                let resumed = fetched.n_resumed > 0;
                PulledFile { path: target, role, architecture, n_bytes, sha256, verified, was_there: false, resumed }
            }
        };
        on_event(PullEvent::Finished { file: &pulled });
        Ok(pulled)
    }

    /// The file that is there already, if it is the one that would be pulled.
    fn compare(&self, job: &Job<'_>) -> Result<PulledFile> {
        let told = self.options.sha256.as_deref().or(job.sha256).map(str::to_owned);
        let (n_bytes, needed) = match told {
            Some(sha256) => (job.n_bytes, Some(sha256)),
            None => job.look()?,
        };
        let n_there =
            fs::metadata(job.target).map_err(|source| Error::io("cannot read file", job.target, source))?.len();
        let sha256 = part::sha256_of(job.target, self.cancel)?;
        let is_same = match &needed {
            Some(needed) => needed.eq_ignore_ascii_case(&sha256),
            None => n_bytes == Some(n_there),
        };
        if !is_same {
            return Err(part::in_the_place(job.target));
        }
        let (role, architecture) = inspect(job.target, job.name)?;
        let (path, verified) = (job.target.to_owned(), needed.is_some());
        Ok(PulledFile { path, role, architecture, n_bytes: n_there, sha256, verified, was_there: true, resumed: false })
    }
}

impl From<Sibling> for RemoteFile {
    fn from(sibling: Sibling) -> Self {
        let sha256 = sibling.lfs.and_then(|large| large.sha256).filter(|text| is_sha256(text));
        Self { path: sibling.rfilename, n_bytes: sibling.size, sha256 }
    }
}

/// What the file at `path` is for, and its architecture, by a header that agrees with its length.
fn inspect(path: &Path, name: &str) -> Result<(FileRole, String)> {
    let refused =
        |source: Error| Error::new(source.kind(), "what was downloaded is no sound GGUF file").at(name).source(source);
    let file = GgufFile::open(path).map_err(refused)?;
    let architecture = file.str("general.architecture").map_err(refused)?.to_owned();
    let role = if architecture == "clip" { FileRole::Projector } else { FileRole::Model };
    Ok((role, architecture))
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::io("cannot make a folder for the files", folder, source))
}
