//! A server on this machine that answers as a test says: it cuts, lies and stalls on demand.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A running server; dropping it closes every connection.
pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Request>>,
    /// Connections that are left to wait.
    waiting: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `GET`, or `CONNECT` of a proxy.
    pub(crate) method: String,
    /// Path and query, or host and port.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// How many requests came before.
    pub(crate) index: usize,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    announced: Option<u64>,
    end: End,
    /// Not even a head is sent.
    is_mute: bool,
}

/// What follows the body.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    /// Nothing, for ever.
    Stall,
    /// A byte now and then, for ever.
    Drip,
}

impl Server {
    /// A server that asks `answer` about every request.
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State::default());
        let (shared, answer) = (Arc::clone(&state), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                let (state, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                // A client that goes away in the middle is part of the tests.
                thread::spawn(move || serve(stream, &state, &*answer));
            }
        });
        Self { url, state }
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// Where the ranges began that were asked for, in order; 0 for whole files.
    pub(crate) fn offsets(&self) -> Vec<u64> {
        self.requests().iter().map(Request::offset).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        lock(&self.state.waiting).clear();
        // Wakes the listener.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

impl Request {
    pub(crate) fn offset(&self) -> u64 {
        let range = self.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |start| start.parse().expect("a number"))
    }
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: Vec::new(), announced: Some(body.len() as u64), body, end: End::Close, is_mute: false }
    }

    /// `bytes`, from where the request wants them, with an ETag.
    pub(crate) fn file(request: &Request, bytes: &[u8], tag: &str) -> Self {
        let (offset, total) = (request.offset() as usize, bytes.len());
        let reply = match offset {
            0 => Self::new(200, bytes),
            _ if offset >= total => return Self::new(416, "").with("Content-Range", format!("bytes */{total}")),
            _ => {
                Self::new(206, &bytes[offset..]).with("Content-Range", format!("bytes {offset}-{}/{total}", total - 1))
            }
        };
        reply.with("ETag", format!("\"{tag}\""))
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same without the header `name`.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self
    }

    /// Only the first bytes are sent, though all are announced.
    pub(crate) fn cut(mut self, n_bytes: usize) -> Self {
        self.body.truncate(n_bytes);
        self
    }

    /// Another length is announced, or none.
    pub(crate) fn announcing(mut self, n_bytes: Option<u64>) -> Self {
        self.announced = n_bytes;
        self
    }

    /// The connection ends before any answer.
    pub(crate) fn hanging_up() -> Self {
        Self { is_mute: true, ..Self::new(200, "") }
    }

    /// The connection stays open and silent.
    pub(crate) fn stalling(mut self) -> Self {
        self.end = End::Stall;
        self
    }

    /// The connection stays open and sends a byte now and then.
    pub(crate) fn dripping(mut self) -> Self {
        self.end = End::Drip;
        self
    }
}

fn serve(mut stream: TcpStream, state: &State, answer: &dyn Fn(&Request) -> Reply) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = loop {
        let request = next_request(&mut lines, state)?;
        if request.method != "CONNECT" {
            break request;
        }
        // Asked as a proxy, the server answers what comes through the tunnel itself.
        stream.write_all(b"HTTP/1.1 200 Told\r\n\r\n").ok()?;
    };
    let reply = answer(&request);
    if reply.is_mute {
        return None;
    }
    let mut head = format!("HTTP/1.1 {} Told\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(n_bytes) = reply.announced {
        head += &format!("Content-Length: {n_bytes}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).ok()?;
    stream.write_all(&reply.body).ok()?;
    match reply.end {
        End::Close => {}
        End::Stall => lock(&state.waiting).push(stream),
        End::Drip => {
            while !state.ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
                stream.write_all(b".").ok()?;
            }
        }
    }
    Some(())
}

fn next_request(lines: &mut Lines<BufReader<TcpStream>>, state: &State) -> Option<Request> {
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut requests = lock(&state.requests);
    let request = Request { method, path, headers, index: requests.len() };
    requests.push(request.clone());
    Some(request)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
