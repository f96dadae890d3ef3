//! Sends numbered UDP frames at a rate, or as fast as they go.

use super::frame::{SHORTEST, Template, arp_reply, arp_request};
use super::report::Rate;
use crate::control::{Claim, UDP};
use crate::error::{FrameError, RequestError};
use crate::raw::{BURST, BadLength};
use crate::session::Session;
use std::hint;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Looks for free slots before the generator sleeps.
const LOOKS: u32 = 200;
/// Bursts after which the daemon is woken, at full speed.
const BURSTS_A_KICK: u32 = 8;
/// How long to ask for the link address of a destination.
const ASK: Duration = Duration::from_secs(3);

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Where to.
    pub destination: SocketAddrV4,
    /// Link address of the destination; `None` finds it out.
    pub mac: Option<[u8; 6]>,
    /// Bytes of a frame, without its check sequence: 60..=MTU + 14.
    pub size: u16,
    /// Flows, each with a source port: 1..=4,096. Bursts of frames belong to one flow.
    pub flows: u16,
    /// Frames a second; `None` for as many as possible.
    pub rate: Option<f64>,
    /// Frames after which to stop.
    pub count: Option<u64>,
    /// Time after which to stop.
    pub time: Option<Duration>,
    /// Never sleep.
    pub spin: bool,
}

/// Why frames could not be generated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The session has no IPv4 address.
    #[error("the session has no IPv4 address to send from")]
    NoAddress,
    /// No frames have this size.
    #[error("frames of {size} bytes: the interface takes {SHORTEST} to {most}")]
    Size {
        /// The size asked for.
        size: u16,
        /// The largest.
        most: usize,
    },
    /// Nobody told the link address.
    #[error("nobody on the link answers for {0}")]
    NoAnswer(Ipv4Addr),
    /// Source ports were not granted.
    #[error("cannot claim ports to send from")]
    Claim(#[from] RequestError),
    /// Frames no longer flow.
    #[error("cannot send frames")]
    Frames(#[from] FrameError),
    /// A frame does not fit a slot.
    #[error("cannot send such a frame")]
    Length(#[from] BadLength),
}

/// Generates frames as the options say. `each_second` is told what was sent since the last time.
///
/// # Errors
/// [`GenerateError`]
pub fn generate(
    session: &mut Session,
    options: &GenerateOptions,
    mut each_second: impl FnMut(Rate),
) -> Result<Rate, GenerateError> {
    let source = session.grant().ipv4.ok_or(GenerateError::NoAddress)?.address;
    let most = session.mtu() + 14;
    if usize::from(options.size) < SHORTEST || usize::from(options.size) > most {
        return Err(GenerateError::Size { size: options.size, most });
    }
    let mac = match options.mac {
        Some(mac) => mac,
        None => find(session, source, *options.destination.ip())?,
    };
    let ports = session.claim(Claim::any(UDP, options.flows.clamp(1, 4096)))?;
    let own = session.mac();
    let templates: Vec<Template> = (0..ports.count)
        .map(|flow| {
            let source = SocketAddrV4::new(source, ports.first_port + flow);
            Template::new(options.size, (own, source), (mac, options.destination), flow.into())
        })
        .collect();
    let result = send(session, options, &templates, &mut each_second);
    // The session may be over; then so is the claim.
    let _ = session.release(ports);
    result
}

fn send(
    session: &mut Session,
    options: &GenerateOptions,
    templates: &[Template],
    each_second: &mut impl FnMut(Rate),
) -> Result<Rate, GenerateError> {
    let frames = session.frames();
    let size = usize::from(options.size);
    let mut numbers = vec![0u64; templates.len()];
    let mut flow = 0;
    let (mut looks, mut bursts) = (0, 0u32);
    let start = Instant::now();
    let (mut sent, mut told, mut told_at) = (0u64, 0u64, start);
    loop {
        let now = Instant::now();
        if now - told_at >= Duration::from_secs(1) {
            each_second(rate(sent - told, size, now - told_at));
            (told, told_at) = (sent, now);
        }
        let time = now - start;
        let left = options.count.map_or(u64::MAX, |count| count.saturating_sub(sent));
        if left == 0 || options.time.is_some_and(|most| time >= most) {
            break;
        }
        let due = options.rate.map_or(u64::MAX, |r| due(r, time).saturating_sub(sent));
        if due == 0 {
            let next = options.rate.map_or(Duration::ZERO, |r| {
                Duration::from_secs_f64(1.0 / r.max(1e-3)).min(Duration::from_millis(100))
            });
            // Below the grain of a sleep only spinning keeps the pace.
            if next > Duration::from_micros(50) && !options.spin {
                frames.wait(Some(next), &[])?;
                discard(frames)?;
            } else {
                hint::spin_loop();
            }
            continue;
        }
        let wanted = usize::try_from(left.min(due)).unwrap_or(BURST).min(BURST);
        let (Some(template), Some(number)) = (templates.get(flow), numbers.get_mut(flow)) else {
            flow = 0;
            continue;
        };
        flow += 1;
        let mut count = 0;
        while count < wanted {
            let Some(mut slot) = frames.transmit() else { break };
            template.write(slot.as_mut_slice(), *number);
            slot.send(size)?;
            *number += 1;
            count += 1;
        }
        sent += count as u64;
        bursts += 1;
        // On a processor that both share, each wake-up is a change of process.
        if count == wanted && options.rate.is_none() && bursts % BURSTS_A_KICK != 0 {
            frames.publish()?;
        } else {
            frames.flush()?;
        }
        if count > 0 {
            looks = 0;
        } else if looks < LOOKS || options.spin {
            looks += 1;
            hint::spin_loop();
        } else {
            frames.wait(Some(Duration::from_millis(100)), &[])?;
            discard(frames)?;
        }
    }
    frames.flush()?;
    // What was sent last is still on its way: it has left when its slots are back.
    let end = Instant::now() + Duration::from_secs(1);
    while frames.split().1.free() < frames.split().1.slots() && Instant::now() < end {
        frames.wait(Some(Duration::from_millis(10)), &[])?;
        discard(frames)?;
    }
    Ok(rate(sent, size, start.elapsed()))
}

/// Gives back frames that nobody asked for, answers of the destination among them.
fn discard(frames: &mut crate::raw::Frames) -> Result<(), FrameError> {
    while frames.receive()? > 0 {
        while frames.next().is_some() {}
    }
    Ok(())
}

fn rate(frames: u64, size: usize, time: Duration) -> Rate {
    Rate { frames, bytes: frames * size as u64, time }
}

/// Frames that should have left after `time`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and `as` saturates"
)]
fn due(rate: f64, time: Duration) -> u64 {
    (rate * time.as_secs_f64()) as u64 + 1
}

/// Finds the link address: the interface's own for local destinations, by ARP for others.
fn find(
    session: &mut Session,
    own: Ipv4Addr,
    destination: Ipv4Addr,
) -> Result<[u8; 6], GenerateError> {
    let mac = session.mac();
    if destination == own {
        return Ok(mac);
    }
    let grant = session.grant();
    let near = grant.ipv4.is_some_and(|own| {
        let mask = u32::MAX.checked_shl(32 - u32::from(own.prefix)).unwrap_or(0);
        own.address.to_bits() & mask == destination.to_bits() & mask
    });
    let target = if near { destination } else { grant.gateway4.unwrap_or(destination) };
    let end = Instant::now() + ASK;
    let mut ask_at = Instant::now();
    let frames = session.frames();
    while Instant::now() < end {
        if Instant::now() >= ask_at
            && let Some(mut slot) = frames.transmit()
        {
            let request = arp_request(mac, own, target);
            if let Some(place) = slot.as_mut_slice().first_chunk_mut() {
                *place = request;
            }
            slot.send(request.len())?;
            ask_at = Instant::now() + Duration::from_secs(1);
        }
        frames.wait(Some(Duration::from_millis(100)), &[])?;
        while frames.receive()? > 0 {
            while let Some(frame) = frames.next() {
                let mut head = [0; SHORTEST];
                let length = frame.copy_to(&mut head);
                if let Some(mac) = arp_reply(head.get(..length).unwrap_or_default(), target) {
                    return Ok(mac);
                }
            }
        }
    }
    Err(GenerateError::NoAnswer(target))
}
