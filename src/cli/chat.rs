//! `owlet chat`: questions line by line, answers as they come.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    mem,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use clap::Args;
use owlet::{
    Adapter, AtomicFile, CancelToken, Error, ErrorKind, Image, ImageCache, InferencePart, InferencePlan,
    InferenceRequest, Message, Model, Role, Session, SessionOptions, Speculation,
    conversation::{Conversation, ConversationOptions, OverflowPolicy, SavedConversation, TurnReport},
};

use super::{
    answer::{AnswerArgs, explain_tools, say_outcome},
    failure::{Failure, Result, Teach},
    interrupt, memory,
    model::{AdapterArg, ModelArgs, SamplingArgs},
    output::{Output, talk},
    pictures::PictureArgs,
    plan::parse_bytes,
    question::QuestionArgs,
    speaker::Speaker,
    speculate::{self, SpeculationArgs},
};

/// Tokens of the context when nothing else is said, where the model was trained for as many.
const DEFAULT_CONTEXT: usize = 8192;
/// How often a waiting chat looks whether it was interrupted.
const WAIT: Duration = Duration::from_millis(100);
/// Memory for pictures that were shown.
const IMAGE_CACHE_BYTES: usize = 256 << 20;

/// Ask a model question after question: a line of stdin each, the answers go to stdout, the thinking to stderr
///
/// Lines that begin with a slash are commands: `/image FILE` shows a picture with the next question, `/adapter FILE[=SCALE]` adds
/// an adapter and `/adapter none` takes all away, `/save FILE` writes the conversation, `/tool RESULT` answers a call of a tool, `/quit` ends it. At a terminal an error is
/// told and the chat goes on; from a pipe it ends the chat.
#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    question: QuestionArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
    #[command(flatten)]
    answer: AnswerArgs,
    /// Stop an answer after this many tokens
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_tokens: usize,
    /// Most tokens of the conversation [default: 8192, or as many as the model was trained for]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Use no more anonymous memory than this, such as 1GiB: batch, precision, pictures and context are reduced to fit. One
    /// picture of the largest size is counted, further ones and adapters of `/adapter` are not
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_budget: Option<usize>,
    /// Forget the oldest turns when the context is full, instead of refusing the question
    #[arg(long)]
    forget: bool,
    /// Go on with the conversation in this file if it exists, and write it there in the end
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// Keep what the model sees of pictures in this folder, for later chats
    #[arg(long, value_name = "DIR")]
    image_cache: Option<PathBuf>,
    /// Most that the folder may hold, such as 2GiB; what was not used for the longest time is removed
    #[arg(long, default_value = "1GiB", requires = "image_cache", value_parser = parse_bytes, value_name = "SIZE")]
    image_cache_limit: usize,
}

pub(crate) fn run(args: &ChatArgs, output: Output) -> Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    args.answer.check(true)?;
    let images = args.question.open_images(&cancel)?;
    if let Some(path) = args.session.as_deref().filter(|path| !path.exists()) {
        AtomicFile::create(path).map(drop).hint(ErrorKind::NotFound, "the folder of the session must exist")?;
    }
    let model = args.model.load(&cancel, output)?;
    let (conversation, most_image_tokens) = args.begin(&model, &cancel, output)?;
    let (pictures, n_threads) = (&args.question.pictures, args.model.threads);
    let mut chat = Chat { model, conversation, images, pictures, most_image_tokens, n_threads, cancel, output };
    let result = chat.talk();
    // What was answered is kept, however the chat ends.
    let saved = args.session.as_deref().map_or(Ok(()), |path| chat.conversation.save(path).map_err(Failure::from));
    if let (Err(_), Some(message)) = (&result, saved.as_ref().err().and_then(Failure::message)) {
        // The failure that ended the chat is told last.
        talk(message);
    }
    result.and(saved)
}

impl ChatArgs {
    /// A new conversation, or the one of `--session`, and the most tokens of a picture where memory is short.
    fn begin(&self, model: &Model, cancel: &CancelToken, output: Output) -> Result<(Conversation, Option<usize>)> {
        let n_ctx = self.context.unwrap_or(model.info().n_ctx_train.min(DEFAULT_CONTEXT));
        let options = SessionOptions { n_ctx, n_threads: self.model.threads, ..SessionOptions::default() };
        let speculation = self.speculation.load(self.model.threads, cancel)?;
        let longest = speculate::with_room(options, speculation.as_ref());
        let fit = |budget| self.fit(model, longest, speculation.as_ref(), budget);
        let fitted = self.memory_budget.map(fit).transpose()?;
        let mut session = Session::new(model, &fitted.as_ref().map_or(longest, |fitted| fitted.session))?;
        session.set_speculation(speculation.as_ref())?;
        let load = |argument: &AdapterArg| load_adapter(model, argument, self.model.threads, output);
        let adapters = self.question.adapters.iter().map(load).collect::<Result<Vec<_>>>()?;
        let mut conversation = match self.session.as_deref().filter(|path| path.exists()) {
            Some(path) => {
                let saved = SavedConversation::open(path)?;
                let n_messages = saved.messages().len();
                let resumed = saved.resume(session, &adapters).map_err(|error| error.at(path.display()));
                let resumed = resumed.hint(
                    ErrorKind::Mismatch,
                    "give the model, projector, adapters and memory budget that the session was saved with",
                )?;
                output.say(format_args!("goes on after {n_messages} messages"));
                resumed
            }
            None => {
                session.set_adapters(&adapters)?;
                Conversation::new(session, ConversationOptions::default())
            }
        };
        let overflow = if self.forget { OverflowPolicy::DropOldestTurns } else { OverflowPolicy::Refuse };
        conversation.set_options(ConversationOptions {
            system: self.question.system.clone().or_else(|| conversation.options().system.clone()),
            tools: self.answer.tools()?.unwrap_or_else(|| conversation.options().tools.clone()),
            thinking: self.answer.thinking().or(conversation.options().thinking),
            answer: self.answer.options(&self.sampling, self.max_tokens)?,
            seed: self.sampling.seed,
            overflow,
            ..conversation.options().clone()
        });
        let cache =
            ImageCache::new(fitted.as_ref().map_or(IMAGE_CACHE_BYTES, |fitted| fitted.bytes(InferencePart::Pictures)));
        conversation.set_image_cache(Arc::new(match &self.image_cache {
            Some(folder) => cache.with_folder(folder, self.image_cache_limit as u64)?,
            None => cache,
        }));
        Ok((conversation, fitted.map(|fitted| fitted.image_tokens)))
    }

    /// The chat within `budget` bytes, in at most the session `longest` beside what `speculation` takes.
    fn fit(
        &self,
        model: &Model,
        longest: SessionOptions,
        speculation: Option<&Speculation>,
        budget: usize,
    ) -> Result<InferencePlan> {
        let request = InferenceRequest { session: longest, ..InferenceRequest::default() };
        let adapters = self.question.adapters.iter().map(|adapter| &*adapter.path);
        let guessing = speculation.map_or(Ok(0), |speculation| speculation.memory_bytes(&longest))?;
        memory::fit(model, &request, adapters, guessing, budget)
    }
}

/// A conversation at the keyboard, or at the end of a pipe.
struct Chat<'a> {
    model: Model,
    conversation: Conversation,
    /// Pictures for the next question.
    images: Vec<Image>,
    pictures: &'a PictureArgs,
    /// Where memory is short.
    most_image_tokens: Option<usize>,
    n_threads: usize,
    cancel: CancelToken,
    output: Output,
}

impl Chat<'_> {
    /// Answers until the input ends.
    fn talk(&mut self) -> Result<()> {
        let is_person = io::stdin().is_terminal();
        let lines = lines_of_stdin();
        loop {
            if is_person {
                // As in `talk`: nobody is left to see it.
                let _ = write!(io::stderr().lock(), "> ");
            }
            let Some(line) = self.next_line(&lines)? else { return Ok(()) };
            match self.obey(line.trim()) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                Err(failure) if is_person && !self.cancel.is_cancelled() => match failure.message() {
                    Some(message) => talk(message),
                    None => return Err(failure),
                },
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The next line; `None` at the end.
    fn next_line(&self, lines: &Receiver<io::Result<String>>) -> Result<Option<String>> {
        loop {
            self.cancel.check()?;
            match lines.recv_timeout(WAIT) {
                Ok(Ok(line)) => return Ok(Some(line)),
                Ok(Err(source)) => {
                    return Err(Error::new(ErrorKind::Io, "cannot read standard input").source(source).into());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    fn obey(&mut self, line: &str) -> Result<ControlFlow<()>> {
        let (word, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        match word {
            "" => {}
            "/quit" => return Ok(ControlFlow::Break(())),
            "/image" => self.images.push(self.pictures.open(Path::new(argument), &self.cancel)?),
            "/adapter" => self.change_adapters(argument)?,
            "/save" => self.conversation.save(Path::new(argument))?,
            "/tool" => self.answer(Role::Tool, argument)?,
            _ if word.starts_with('/') => {
                let known = "/image FILE, /adapter FILE[=SCALE], /save FILE, /tool RESULT or /quit";
                return Err(Failure::argument("no such command", word, known));
            }
            _ => self.answer(Role::User, line)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn change_adapters(&mut self, argument: &str) -> Result<()> {
        let mut adapters = Vec::new();
        if argument != "none" {
            let argument: AdapterArg =
                argument.parse().map_err(|problem: String| Failure::argument("bad adapter", argument, problem))?;
            adapters.extend(self.conversation.adapters().iter().cloned());
            adapters.push(load_adapter(&self.model, &argument, self.n_threads, self.output)?);
        }
        Ok(self.conversation.set_adapters(&adapters)?)
    }

    /// Asks what a person said, or what a tool found.
    fn answer(&mut self, role: Role, text: &str) -> Result<()> {
        let mut speaker = Speaker::new(self.output, false);
        let mut heard = Ok(());
        // Pictures that were shown wait for a person's question.
        let images = if role == Role::User { self.images.clone() } else { Vec::new() };
        if let Some(plan) = self.pictures.plan(&self.model, &images, self.most_image_tokens, false, self.output)? {
            let image_budget = Some(plan.budget);
            self.conversation.set_options(ConversationOptions { image_budget, ..self.conversation.options().clone() });
        }
        let question = match role {
            Role::Tool => Message::text(role, text),
            _ => Message::user(text, images)?,
        };
        let asked = self.conversation.ask(question, &self.cancel, &mut |event| {
            heard = speaker.hear(&event);
            if heard.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let finished = speaker.finish();
        let has_tools = !self.conversation.options().tools.is_empty();
        let turn = explain_tools(asked, has_tools)
            .hint(ErrorKind::ContextOverflow, "`--forget` drops the oldest turns, `--context` makes room")?;
        // Pictures of a question that failed wait for the next one.
        if role == Role::User {
            mem::take(&mut self.images);
        }
        say_outcome(&turn.answer, &turn.calls, self.output);
        let TurnReport {
            n_prompt_tokens,
            n_computed_tokens,
            n_dropped_messages,
            first_token_ms,
            n_guessed,
            n_accepted,
            ..
        } = turn.report;
        let forgotten =
            if n_dropped_messages > 0 { format!(", {n_dropped_messages} messages forgotten") } else { String::new() };
        self.output.say(format_args!(
            "{n_computed_tokens} of {n_prompt_tokens} tokens computed, first token after {first_token_ms:.0} ms{forgotten}{}",
            speculate::told(n_guessed, n_accepted)
        ));
        heard.and(finished)
    }
}

/// Lines of stdin, read beside the chat so that waiting for one can be interrupted.
fn lines_of_stdin() -> Receiver<io::Result<String>> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// An adapter that is sure to change something.
fn load_adapter(model: &Model, argument: &AdapterArg, n_threads: usize, output: Output) -> Result<(Arc<Adapter>, f32)> {
    let (adapter, scale) = argument.load(model)?;
    let largest = adapter.check_effect(scale, n_threads).map_err(|error| error.at(argument.path.display()))?;
    output.say(format_args!("{} moves logits by up to {largest:.3}", argument.path.display()));
    Ok((adapter, scale))
}
