//! Sends back what it receives: UDP and TCP on one port.

use crate::net::{TcpListener, TcpStream, UdpSocket};
use crate::stack::Stack;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::thread;

/// What to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoOptions {
    /// The port; 0 takes any, for each protocol its own.
    pub port: u16,
    /// Whether to serve UDP.
    pub udp: bool,
    /// Whether to serve TCP.
    pub tcp: bool,
}

/// Ports that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// UDP port.
    pub udp: Option<u16>,
    /// TCP port.
    pub tcp: Option<u16>,
}

/// Serves until something fails; calls `ready` once it does.
///
/// # Errors
/// A port cannot be had, or the daemon is gone.
pub fn serve(stack: &Stack, options: &EchoOptions, ready: impl FnOnce(Serving)) -> io::Result<()> {
    let at = (Ipv4Addr::UNSPECIFIED, options.port);
    let socket = options.udp.then(|| UdpSocket::bind(stack, at)).transpose()?;
    let listener = options.tcp.then(|| TcpListener::bind(stack, at)).transpose()?;
    let udp = socket.as_ref().map(|s| s.local_addr()).transpose()?;
    let tcp = listener.as_ref().map(|l| l.local_addr()).transpose()?;
    ready(Serving { udp: udp.map(|a| a.port()), tcp: tcp.map(|a| a.port()) });
    match (socket, listener) {
        (Some(socket), Some(listener)) => thread::scope(|scope| {
            let datagrams = scope.spawn(move || echo_datagrams(&socket));
            let accepted = accept(&listener);
            // Both fail for one reason: the daemon is gone.
            datagrams.join().unwrap_or(Ok(())).and(accepted)
        }),
        (Some(socket), None) => echo_datagrams(&socket),
        (None, Some(listener)) => accept(&listener),
        (None, None) => Ok(()),
    }
}

fn echo_datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (count, from) = socket.recv_from(&mut buffer)?;
        match socket.send_to(buffer.get(..count).unwrap_or_default(), from) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return Err(error),
            // One that cannot be answered is lost, as datagrams are.
            Err(_) => {}
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        // A connection that cannot have a thread is closed.
        let _ = thread::Builder::new().stack_size(256 << 10).spawn(move || echo_stream(stream));
    }
    Ok(())
}

fn echo_stream(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..count).unwrap_or_default())?;
    }
}
