//! Counters for Prometheus and its kin, over a UNIX socket or loopback TCP.
//!
//! ```text
//!   scraper --GET--> usnetd-metrics --Status, Clients, Stats--> control thread --> workers
//! ```
//!
//! - Whoever asks often gets what was counted a moment ago: taking counters costs the workers time.
//! - At most a few connections at a time, each for a few seconds at most; others are closed at once. None of
//!   this is in anybody's way but other scrapers'.

mod text;

pub use text::{Format, exposition};

use crate::ask::{AskError, Daemon};
use crate::config::{Control, MetricsAt};
use crate::control::group::give_to_group;
use crate::control::server::StopHandle;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use usnet_shmring::control::QueryKind;

/// Connections at a time.
const CONNECTIONS: usize = 8;
/// How long one may take in all.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the longest request.
const REQUEST: usize = 8192;
/// How old counters may be.
const AGE: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    fn bind(at: &MetricsAt, control: &Control) -> io::Result<Self> {
        let path = match at {
            MetricsAt::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                return Ok(Self::Tcp(listener));
            }
            MetricsAt::Unix(path) => path,
        };
        // Of a daemon that is gone: nobody answers there.
        if UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            std::fs::remove_file(path)?;
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        rustix::fs::chmod(path, Mode::from_raw_mode(control.mode))?;
        if let Some(group) = control.group {
            give_to_group(path, group)?;
        }
        Ok(Self::Unix(listener, path.clone()))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Unix(listener, _) => Stream::Unix(listener.accept()?.0),
            Self::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Stream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        let left = Some(left.max(Duration::from_millis(1)));
        match self {
            Self::Unix(s) => s.set_read_timeout(left).and_then(|()| s.set_write_timeout(left)),
            Self::Tcp(s) => s.set_read_timeout(left).and_then(|()| s.set_write_timeout(left)),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tcp(stream) => stream.read(into),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }
}

/// What all connections share.
#[derive(Debug)]
struct Source {
    socket: PathBuf,
    last: Mutex<Option<(Instant, Arc<Texts>)>>,
    open: AtomicUsize,
}

/// The counters of a moment, in both formats.
#[derive(Debug)]
struct Texts {
    open_metrics: String,
    prometheus: String,
}

impl Texts {
    fn get(&self, format: Format) -> &str {
        match format {
            Format::OpenMetrics => &self.open_metrics,
            Format::Prometheus => &self.prometheus,
        }
    }
}

impl Source {
    fn texts(&self) -> Result<Arc<Texts>, AskError> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((taken, text)) = &*last
            && taken.elapsed() < AGE
        {
            return Ok(Arc::clone(text));
        }
        let mut daemon = Daemon::connect(&self.socket)?;
        let mut ask = |kind| daemon.query(kind, 0).map(|(_, answer)| answer);
        let (status, clients) = (ask(QueryKind::Status)?, ask(QueryKind::Clients)?);
        let stats = ask(QueryKind::Stats)?;
        let text = |format| exposition(format, &status, &clients, &stats);
        let texts = Arc::new(Texts {
            open_metrics: text(Format::OpenMetrics),
            prometheus: text(Format::Prometheus),
        });
        *last = Some((Instant::now(), Arc::clone(&texts)));
        Ok(texts)
    }

    /// Answers one request, and no more than that.
    fn serve(&self, mut stream: Stream) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        let left = |stream: &Stream| match end.checked_duration_since(Instant::now()) {
            Some(left) => stream.limit(left),
            None => Err(io::ErrorKind::TimedOut.into()),
        };
        let mut request = Vec::new();
        while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            let mut piece = [0; 1024];
            left(&stream)?;
            let count = stream.read(&mut piece)?;
            request.extend(piece.get(..count).unwrap_or_default());
            if count == 0 || request.len() > REQUEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let path = request.strip_prefix(b"GET ").and_then(|rest| rest.split(|b| *b == b' ').next());
        let (format, texts) = (Format::accepted(&request), self.texts());
        let (status, kind, body) = match (path, &texts) {
            (Some(b"/metrics" | b"/"), Ok(texts)) => {
                ("200 OK", format.content_type(), texts.get(format))
            }
            (Some(b"/metrics" | b"/"), Err(_)) => {
                ("503 Service Unavailable", "text/plain", "usnetd does not answer\n")
            }
            (Some(_), _) => ("404 Not Found", "text/plain", "the counters are at /metrics\n"),
            (None, _) => ("405 Method Not Allowed", "text/plain", "only GET is served\n"),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        let answer = [head.as_bytes(), body.as_bytes()].concat();
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            left(&stream)?;
            let count = stream.write(rest)?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The thread that serves counters. Dropping it stops that, and removes the socket.
#[derive(Debug)]
pub struct Metrics {
    stop: StopHandle,
    thread: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Begins to serve the counters of the daemon at `control.socket`.
    ///
    /// # Errors
    /// It cannot listen there, or no thread.
    pub fn start(at: &MetricsAt, control: &Control) -> io::Result<Self> {
        let listener = Listener::bind(at, control)?;
        let stop = StopHandle::new()?;
        let (socket, last) = (control.socket.clone(), Mutex::new(None));
        let source = Arc::new(Source { socket, last, open: AtomicUsize::new(0) });
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("usnetd-metrics".into());
        let thread = Some(thread.spawn(move || run(&listener, &stopped, &source))?);
        Ok(Self { stop, thread })
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.stop.stop();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(listener: &Listener, stop: &StopHandle, source: &Arc<Source>) {
    loop {
        let mut watched =
            [listener.as_fd(), stop.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "counters are not served any more"),
        }
        if watched.last().is_some_and(|stop| !stop.revents().is_empty()) {
            return;
        }
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::debug!(%error, "a scraper was turned away");
                // Without descriptors it would be asked again at once.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        if source.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            source.open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let shared = Arc::clone(source);
        let thread = std::thread::Builder::new().name("usnetd-scraper".into());
        let spawned = thread.spawn(move || {
            if let Err(error) = shared.serve(stream) {
                tracing::debug!(%error, "a scraper did not get its answer");
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            source.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
