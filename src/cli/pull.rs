//! `owlet pull`: a model from the Hugging Face Hub, a mirror or any address.

use std::{env, path::PathBuf, time::Duration};

use clap::Args;
use indicatif::ProgressBar;
use owlet::{
    CancelToken, ErrorKind,
    pull::{FileRole, HUB, Projector, PullEvent, PullOptions, PulledFile, Source, pull},
};
use serde::Serialize;

use super::{
    failure::{Failure, Result, Teach},
    interrupt,
    output::{self, Output},
};

/// Download a model with its image projector; what was interrupted goes on where it stopped
///
/// Files appear under their names when they are whole: the SHA-256 that the hub tells is compared, and the GGUF header must
/// agree with the length. Their paths go to stdout. HF_TOKEN opens gated repositories; HF_ENDPOINT names a mirror;
/// HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are respected.
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// hf:ORG/REPO, hf:ORG/REPO:Q8_0, hf:ORG/REPO@REVISION:FILE.gguf or https://HOST/FILE.gguf
    // Not parsed by clap, which would show an address with its password.
    source: String,
    /// Folder for the files, made if need be [default: the repository's name, for addresses the current one]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The projector's file or type, of `hf:` repositories; `none` pulls none [default: that of the model, F16 before Q8_0]
    #[arg(long, value_name = "NAME")]
    mmproj: Option<String>,
    /// SHA-256 that the file must have [default: what the hub tells]
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Server of `hf:` repositories [default: HF_ENDPOINT or https://huggingface.co]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// Tries in vain before giving up, once a server has answered; a try that brought bytes does not count
    #[arg(long, default_value_t = 5, value_name = "N")]
    retries: u32,
    /// Seconds to wait for a connection, an answer or more bytes
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    stall_timeout: u64,
    /// Print every event as a line of JSON, the last one with all files
    #[arg(long)]
    json: bool,
}

/// The last line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename = "done")]
struct Done<'a> {
    files: &'a [PulledFile],
}

pub(crate) fn run(args: &PullArgs, output: Output) -> Result<()> {
    let source: Source = args.source.parse()?;
    let cancel = interrupt::cancel_on_signal()?;
    let mut listener =
        Listener { output, json: args.json, bar: None, has_kept: false, cancel: cancel.clone(), heard: Ok(()) };
    let pulled = pull(&source, &args.options(), &cancel, &mut |event| listener.hear(&event));
    listener.end_bar();
    listener.heard?;
    let pulled = match listener.has_kept {
        true => pulled
            .hint(ErrorKind::Cancelled, "the same command goes on where this one stopped")
            .hint(ErrorKind::Network, "what was downloaded is kept: the same command goes on from there"),
        false => pulled.map_err(Failure::from),
    };
    let files = pulled
        .hint(ErrorKind::Limit, "name a folder on another disk by `--out`, or a smaller type: hf:ORG/REPO:Q4_K_M")?;
    if args.json {
        return json_line(output, &Done { files: &files });
    }
    for file in &files {
        output.line(file.path.display())?;
    }
    explain(&files, output);
    Ok(())
}

impl PullArgs {
    fn options(&self) -> PullOptions {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        PullOptions {
            endpoint: self.endpoint.clone().or_else(|| variable("HF_ENDPOINT")).unwrap_or_else(|| HUB.to_owned()),
            token: variable("HF_TOKEN"),
            out: self.out.clone(),
            projector: match self.mmproj.as_deref() {
                None => Projector::Auto,
                Some("none") => Projector::Skip,
                Some(name) => Projector::Named(name.to_owned()),
            },
            sha256: self.sha256.clone(),
            force: self.force,
            retries: self.retries,
            stall: Duration::from_secs(self.stall_timeout),
            ..PullOptions::default()
        }
    }
}

/// Tells a person or a program what happens.
struct Listener {
    output: Output,
    json: bool,
    bar: Option<ProgressBar>,
    /// Whether an unfinished file can be gone on with.
    has_kept: bool,
    cancel: CancelToken,
    heard: Result<()>,
}

impl Listener {
    fn hear(&mut self, event: &PullEvent<'_>) {
        self.has_kept |= matches!(event, PullEvent::Kept { .. });
        if self.json {
            if self.heard.is_ok() {
                self.heard = json_line(self.output, event);
            }
            if self.heard.is_err() {
                // Nobody reads on.
                self.cancel.cancel();
            }
            return;
        }
        match event {
            PullEvent::Chosen { files, total_bytes, others } => {
                let size = total_bytes.map_or_else(String::new, |n| format!(", {}", output::bytes(n)));
                self.output.say(format_args!("pulling {}{size}", files.join(" and ")));
                if !others.is_empty() {
                    self.output.say(format_args!("there are also {}", others.join(", ")));
                }
            }
            PullEvent::Resumed { file, n_bytes } => {
                self.output.say(format_args!("{file}: goes on after {}", output::bytes(*n_bytes)));
            }
            PullEvent::StartedOver { file, why } => {
                self.end_bar();
                self.output.say(format_args!("{file}: starts over: {why}"));
            }
            PullEvent::Retrying { file, error, pause_s } => {
                self.end_bar();
                self.output.say(format_args!("{file}: {error}; next try in {pause_s:.0} s"));
            }
            PullEvent::Kept { .. } => {}
            PullEvent::Progress { file, n_bytes, total_bytes, .. } => self.show(file, *n_bytes, *total_bytes),
            PullEvent::Finished { file } => {
                self.end_bar();
                let state = match (file.was_there, file.verified) {
                    (true, true) => "is here already, checksum right",
                    (true, false) => "is here already, of the same length; no checksum was told",
                    (false, true) => "done, checksum right",
                    (false, false) => "done; no checksum was told to compare",
                };
                let (path, n, sha256) = (file.path.display(), output::bytes(file.n_bytes), &file.sha256);
                self.output.say(format_args!("{path}: {state} ({n}, SHA-256 {sha256})"));
            }
        }
    }

    fn show(&mut self, file: &str, n_bytes: u64, total_bytes: Option<u64>) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = self.output.byte_progress(total_bytes.unwrap_or(0)).with_message(file.to_owned());
            // What is there already was not downloaded at today's rate.
            bar.set_position(n_bytes);
            bar.reset_eta();
            bar
        });
        bar.set_length(total_bytes.unwrap_or(n_bytes));
        bar.set_position(n_bytes);
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn json_line(output: Output, value: &impl Serialize) -> Result<()> {
    output.line(serde_json::to_string(value).map_err(|error| Failure::stdout(error.into()))?)
}

/// How to go on with the files.
fn explain(files: &[PulledFile], output: Output) {
    let of_role = |role: FileRole| files.iter().find(|file| file.role == role).map(|file| file.path.display());
    match (of_role(FileRole::Model), of_role(FileRole::Projector)) {
        (Some(model), Some(projector)) => {
            output
                .say(format_args!("try: owlet run -m {model} --mmproj {projector} --image PICTURE \"What is this?\""));
        }
        (Some(model), None) => output.say(format_args!("try: owlet run -m {model} \"What is an owl?\"")),
        (None, Some(projector)) => {
            output
                .say(format_args!("the projector of a model: owlet run -m MODEL --mmproj {projector} --image PICTURE"));
        }
        (None, None) => {}
    }
}
