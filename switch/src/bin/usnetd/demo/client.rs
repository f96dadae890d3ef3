//! The client processes of the demo: each attaches, says `ready`, and serves until it is ended.

use super::checks::{BULK_PORT, ECHO_PORT, HTTP_PORT};
use super::page::{page, periods, window};
use clap::{Args, ValueEnum};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use usnet::net::{TcpListener, TcpStream, UdpSocket};
use usnet::stack::{Stack, StackOptions};

/// What a client serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// A page over HTTP.
    Http,
    /// Whatever comes, over TCP and UDP.
    Echo,
    /// As many bytes of a known pattern as are asked for.
    Bulk,
    /// UDP datagrams, as a program of usnetd 0.1.
    Old,
}

/// The arguments of a client.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientArgs {
    /// What to serve.
    #[arg(value_enum)]
    role: Role,
    /// Interface to attach to.
    #[arg(long)]
    interface: String,
    /// Socket of the gateway for programs of usnetd 0.1.
    #[arg(long, required_if_eq("role", "old"))]
    gateway: Option<PathBuf>,
}

/// Attaches and serves.
pub(crate) fn run(args: &ClientArgs) -> io::Result<()> {
    let name = args.role.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    let ready = || {
        println!("ready");
        io::stdout().flush()
    };
    if let (Role::Old, Some(gateway)) = (args.role, &args.gateway) {
        return super::old_client::run(gateway, &args.interface, ready);
    }
    let mut options = StackOptions::named(&name);
    options.session.interface = args.interface.clone();
    let stack = Stack::attach(options)?;
    match args.role {
        Role::Http => {
            let listener = TcpListener::bind(&stack, ("0.0.0.0", HTTP_PORT))?;
            ready()?;
            serve(&listener, serve_page);
        }
        Role::Echo => {
            let listener = TcpListener::bind(&stack, ("0.0.0.0", ECHO_PORT))?;
            let socket = UdpSocket::bind(&stack, ("0.0.0.0", ECHO_PORT))?;
            ready()?;
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
                }
            });
            serve(&listener, echo);
        }
        Role::Bulk => {
            let listener = TcpListener::bind(&stack, ("0.0.0.0", BULK_PORT))?;
            ready()?;
            serve(&listener, send_pattern);
        }
        Role::Old => {}
    }
    Ok(())
}

/// A thread for each connection; what goes wrong on one concerns that one alone. Ends when usnetd
/// does.
fn serve(listener: &TcpListener, one: fn(TcpStream) -> io::Result<()>) {
    while let Ok((stream, _)) = listener.accept() {
        std::thread::spawn(move || one(stream));
    }
}

fn serve_page(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < 8192 {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
    let page = page();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&page)?;
    stream.flush()
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}

fn send_pattern(mut stream: TcpStream) -> io::Result<()> {
    let mut wish = [0; 8];
    stream.read_exact(&mut wish)?;
    let count = u64::from_be_bytes(wish);
    let periods = periods();
    let mut sent = 0;
    while sent < count {
        let piece = window(&periods, sent);
        let most = usize::try_from(count - sent).unwrap_or(usize::MAX).min(piece.len());
        let written = stream.write(piece.get(..most).unwrap_or_default())?;
        sent += written as u64;
    }
    stream.flush()
}
