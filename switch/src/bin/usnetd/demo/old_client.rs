//! A client of the demo as it would have been built for usnetd 0.1: JSON messages, and a datagram for each frame
//! (docs/compat.md). It gives every UDP datagram back that reaches its port, as it came.

use super::checks::OLD_PORT;
use super::topology::SHARED;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// Attaches through the gateway at `socket`, and says `ready` by `ready`; echoes until the session ends.
pub(super) fn run(
    socket: &Path,
    interface: &str,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let own = socket.with_extension(format!("of-{}", std::process::id()));
    let control = UnixDatagram::bind(&own)?;
    control.set_read_timeout(Some(Duration::from_secs(5)))?;
    control.connect(socket)?;

    let ask = serde_json::json!({ "RequestUDS": [interface, std::process::id()] });
    control.send(ask.to_string().as_bytes())?;
    let frames = UnixDatagram::from(handed(&control)?);
    let ask = serde_json::json!({ "AddMatch": {
        "dst_addr": { "Ipv4": SHARED }, "dst_port": OLD_PORT, "src_addr": null, "src_port": null, "protocol": UDP,
    } });
    control.send(ask.to_string().as_bytes())?;
    let mut answer = [0; 16];
    let length = control.recv(&mut answer)?;
    if answer.get(..length) != Some(b"OK") {
        return Err(io::Error::other("the claim was refused"));
    }
    ready()?;
    let mut frame = vec![0; 2048];
    loop {
        let length = frames.recv(&mut frame)?;
        if let Some(frame) = frame.get_mut(..length)
            && turn_round(frame).is_some()
        {
            // What finds no room is lost, as on a wire.
            let _ = frames.send(frame);
        }
    }
}

/// The descriptor that comes with the answer to `RequestUDS`.
fn handed(control: &UnixDatagram) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut answer = [0; 16];
    recvmsg(control, &mut [IoSliceMut::new(&mut answer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let rights = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut ends) => ends.next(),
        _ => None,
    });
    rights.ok_or_else(|| io::Error::other("usnetd lets no program of its predecessor in"))
}

const UDP: u8 = 17;

/// Lets a UDP datagram to the port go back to its sender; `None` if it is none. Sums stay right, since addresses and
/// ports only change places.
fn turn_round(frame: &mut [u8]) -> Option<()> {
    let (link, packet) = frame.split_at_mut_checked(14)?;
    let head = usize::from(packet.first()? & 0xf) * 4;
    let is_udp = link.get(12..14)? == [8, 0] && *packet.get(9)? == UDP && head >= 20;
    if !is_udp || packet.get(head + 2..head + 4)? != OLD_PORT.to_be_bytes() {
        return None;
    }
    let swap = |bytes: &mut [u8], length: usize| {
        let (from, to) = bytes.split_at_mut(length);
        from.swap_with_slice(to);
    };
    swap(link.get_mut(..12)?, 6);
    swap(packet.get_mut(12..20)?, 4);
    swap(packet.get_mut(head..head + 4)?, 2);
    Some(())
}
