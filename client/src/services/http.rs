//! A small HTTP/1.1 server: a page, and bytes in any number both ways.
//!
//! ```text
//!   GET /           the page
//!   GET /bytes/N    N bytes: byte number i is i modulo 251
//!   POST anything   takes the body and answers with its length
//! ```

use crate::net::{TcpListener, TcpStream};
use crate::stack::Stack;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Longest request line or header line, and most header lines.
const LINE: u64 = 8192;
const LINES: usize = 100;
/// Bytes that `/bytes/N` writes at once: a multiple of the pattern's period.
const CHUNK: usize = 251 * 512;

/// What to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// The port; 0 takes any.
    pub port: u16,
    /// Body of the page.
    pub page: Vec<u8>,
    /// Its media type.
    pub content_type: String,
    /// Requests after which to stop.
    pub requests: Option<u64>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        let page = "<!doctype html>\n<title>usnet</title>\n<p>This page was served by a TCP/IP stack \
                    in user space.</p>\n";
        Self {
            port: 80,
            page: page.into(),
            content_type: "text/html; charset=utf-8".into(),
            requests: None,
        }
    }
}

/// What was served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpCounts {
    /// Connections accepted.
    pub connections: u64,
    /// Requests answered.
    pub requests: u64,
    /// Bytes of bodies sent.
    pub sent: u64,
    /// Bytes of bodies received.
    pub received: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    requests: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    fn snapshot(&self) -> HttpCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HttpCounts {
            connections: get(&self.connections),
            requests: get(&self.requests),
            sent: get(&self.sent),
            received: get(&self.received),
        }
    }
}

/// Serves until so many requests are answered, or something fails; calls `ready` once it does.
///
/// # Errors
/// The port cannot be had, or the daemon is gone.
pub fn serve(
    stack: &Stack,
    options: &HttpOptions,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<HttpCounts> {
    let listener = TcpListener::bind(stack, (Ipv4Addr::UNSPECIFIED, options.port))?;
    ready(listener.local_addr()?);
    let counters = Counters::default();
    let open = Mutex::new(HashMap::new());
    let (listener, counters, open) = (&listener, &counters, &open);
    let table = || open.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        let mut number = 0u64;
        let result = loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => Arc::new(stream),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => break Ok(()),
                Err(error) => break Err(error),
            };
            counters.connections.fetch_add(1, Ordering::Relaxed);
            number += 1;
            let own = number;
            table().insert(own, Arc::clone(&stream));
            let serve = move || {
                // An error of a connection concerns its peer alone.
                let _ = converse(&stream, options, counters, listener);
                table().remove(&own);
            };
            let thread = thread::Builder::new().stack_size(256 << 10);
            if thread.spawn_scoped(scope, serve).is_err() {
                // A connection that cannot have a thread is closed.
                table().remove(&own);
            }
        };
        // Those that wait for another request see the end of the connection.
        for stream in table().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        result
    })?;
    Ok(counters.snapshot())
}

/// What a request asks for.
#[derive(Debug, Default)]
struct Request {
    method: String,
    path: String,
    body: u64,
    keep_alive: bool,
    expects_continue: bool,
}

fn converse(
    stream: &TcpStream,
    options: &HttpOptions,
    counters: &Counters,
    listener: &TcpListener,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    while let Some(request) = read_request(&mut reader)? {
        if request.expects_continue {
            (&mut &*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let taken = io::copy(&mut (&mut reader).take(request.body), &mut io::sink())?;
        counters.received.fetch_add(taken, Ordering::Relaxed);
        let sent = answer(stream, &request, options, taken)?;
        counters.sent.fetch_add(sent, Ordering::Relaxed);
        let answered = counters.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if options.requests.is_some_and(|most| answered >= most) {
            listener.interrupt();
            break;
        }
        if !request.keep_alive {
            break;
        }
    }
    Ok(())
}

/// Reads a request up to its body; `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut line = String::new();
    if reader.take(LINE).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    let mut request = Request {
        method: method.into(),
        path: path.into(),
        keep_alive: version == "HTTP/1.1",
        ..Request::default()
    };
    for _ in 0..LINES {
        let mut line = String::new();
        reader.take(LINE).read_line(&mut line)?;
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(Some(request));
        }
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let value = value.trim_ascii();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.body = value.parse().map_err(|_| bad())?,
            "connection" => request.keep_alive = !value.eq_ignore_ascii_case("close"),
            "expect" => request.expects_continue = value.eq_ignore_ascii_case("100-continue"),
            _ => {}
        }
    }
    Err(bad())
}

/// Answers a request; returns the bytes of the body.
fn answer(
    mut stream: &TcpStream,
    request: &Request,
    options: &HttpOptions,
    taken: u64,
) -> io::Result<u64> {
    let connection = if request.keep_alive { "keep-alive" } else { "close" };
    let head = |status: &str, kind: &str, length: u64| {
        format!(
            "HTTP/1.1 {status}\r\nServer: usnet\r\nContent-Type: {kind}\r\n\
             Content-Length: {length}\r\nConnection: {connection}\r\n\r\n"
        )
    };
    let whole = |status: &str, kind: &str, body: &[u8]| {
        let mut bytes = head(status, kind, body.len() as u64).into_bytes();
        if request.method != "HEAD" {
            bytes.extend_from_slice(body);
        }
        (&mut &*stream).write_all(&bytes)?;
        Ok(body.len() as u64)
    };
    let plain = "text/plain";
    match (request.method.as_str(), request.path.as_str()) {
        ("POST" | "PUT", _) => whole("200 OK", plain, format!("{taken}\n").as_bytes()),
        ("GET" | "HEAD", "/") => whole("200 OK", &options.content_type, &options.page),
        ("GET", path) => {
            let count = path.strip_prefix("/bytes/").and_then(|n| n.parse::<u64>().ok());
            let Some(count) = count else {
                return whole("404 Not Found", plain, b"there is / and /bytes/N\n");
            };
            let head = head("200 OK", "application/octet-stream", count);
            stream.write_all(head.as_bytes())?;
            write_pattern(stream, count)?;
            Ok(count)
        }
        _ => whole("405 Method Not Allowed", plain, b"GET, HEAD, POST\n"),
    }
}

fn write_pattern(mut stream: &TcpStream, count: u64) -> io::Result<()> {
    let chunk: Vec<u8> = (0..=250).cycle().take(CHUNK).collect();
    let mut left = count;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(chunk.get(..now).unwrap_or_default())?;
        left -= now as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> io::Result<Option<Request>> {
        read_request(&mut text.as_bytes())
    }

    #[test]
    fn a_request_is_read_up_to_its_body() {
        let text =
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\nbody";
        let request = parse(text).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/x"));
        assert_eq!((request.body, request.keep_alive, request.expects_continue), (12, true, true));
        let request = parse("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").unwrap().unwrap();
        assert!(!request.keep_alive);
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().keep_alive);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(parse("").unwrap().is_none());
        assert!(parse("GET /\r\n\r\n").is_err());
        assert!(parse("GET / HTTP/1.1\r\nno colon\r\n\r\n").is_err());
        assert!(parse("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n").is_err());
        assert!(parse(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(LINES))).is_err());
    }
}
