//! The whole path with real processes: clients on processor 1, the switch on processor 0.
//!
//! ```text
//!   this process: Switch::step in a busy loop      CPU 0
//!      | socket: sessions, then nothing
//!   child processes: this program again            CPU 1
//!      task `both`:                generator and sink take turns in one thread
//!      tasks `generate` and `sink`: a process each, which yield to each other
//!      task `latency`:             two clients that send one frame there and back
//! ```
//!
//! A child prints one line of JSON when it is done. After every run the switch must have counted what
//! the children counted, with no frame and no slot lost.

use crate::client::{Generator, Peer, Sink};
use crate::pin::pin_or_warn;
use crate::pingpong::histogram;
use crate::rig::{self, Rig, Sharing, check_conserved, rig, say};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};
use usnet_shmring::control::Channel;
use usnet_switch::snapshot::Snapshot;
use usnet_switch::switch::Switch;
use usnet_switch::time::Time;

/// How long a child runs before it counts.
const WARM_UP: Duration = Duration::from_millis(30);
/// A sink of its own ends after this long without a frame.
const SILENCE: Duration = Duration::from_millis(200);
/// A child that says nothing for so much longer than it should run is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a child process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Generates with the first session and sinks with the second.
    Both,
    /// Generates.
    Generate,
    /// Sinks.
    Sink,
    /// Measures round trips between its two sessions.
    Latency,
}

impl Task {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Both, "both"),
        (Self::Generate, "generate"),
        (Self::Sink, "sink"),
        (Self::Latency, "latency"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(task, _)| *task == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(task, _)| *task).ok_or_else(|| format!("no task {text}"))
    }
}

/// What a child tells at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Frames that it sent.
    pub sent: u64,
    /// Frames that it received.
    pub received: u64,
    /// Received in `seconds`, after the warm-up.
    pub counted: u64,
    /// Seconds that it counted.
    pub seconds: f64,
    /// Round trips at p50, p90, p99, p99.9 and the longest, in nanoseconds.
    pub round_trips: Vec<f64>,
}

/// Whether one process plays both clients, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One thread of one process holds both sessions and takes turns.
    OneProcess,
    /// A process each, on one processor.
    TwoProcesses,
}

/// Moves frames of `size` bytes from generator to sink for `time`; returns millions a second.
///
/// # Errors
/// What could not be made, or what does not add up.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
pub fn run(sharing: Sharing, layout: Layout, size: usize, time: Duration) -> Result<f64, String> {
    let tasks: &[Task] = match layout {
        Layout::OneProcess => &[Task::Both],
        Layout::TwoProcesses => &[Task::Generate, Task::Sink],
    };
    let (outcomes, _) = serve(sharing, tasks, size, time)?;
    let outcome = outcomes.last().ok_or("no child")?;
    if outcome.seconds <= 0.0 {
        return Err("the sink received nothing".to_owned());
    }
    Ok(outcome.counted as f64 / outcome.seconds / 1e6)
}

/// Measures round trips for `time`: nanoseconds at p50, p90, p99, p99.9 and the longest.
///
/// # Errors
/// As [`run`].
pub fn latency(sharing: Sharing, time: Duration) -> Result<[f64; 5], String> {
    let (outcomes, _) = serve(sharing, &[Task::Latency], 64, time)?;
    let found = outcomes.first().and_then(|o| o.round_trips.first_chunk::<5>().copied());
    found.ok_or_else(|| "no round trips".to_owned())
}

/// Starts the children, plays the switch until all of them are done, and checks the accounts.
fn serve(
    sharing: Sharing,
    tasks: &[Task],
    size: usize,
    time: Duration,
) -> Result<(Vec<Outcome>, Snapshot), String> {
    let Rig { mut switch, handouts } = rig(sharing)?;
    let mut handouts = handouts.into_iter();
    let mut children = Vec::new();
    for task in tasks {
        let sessions = if tasks.len() == 1 { 2 } else { 1 };
        let own: Vec<_> = handouts.by_ref().take(sessions).collect();
        let (here, there) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(say("make a socket"))?;
        children.push(Running::start(*task, sessions, size, time, there)?);
        let channel = Channel::from(here);
        for handout in &own {
            handout.send(&channel)?;
        }
    }
    pin_or_warn(0, "switch");
    let start = Instant::now();
    let limit = time + PATIENCE;
    let mut turns = 0u32;
    let now = |start: Instant| Time(u64::try_from(start.elapsed().as_nanos()).unwrap_or(0));
    loop {
        turns = turns.wrapping_add(1);
        step(&mut switch, now(start));
        if turns.is_multiple_of(1 << 16) {
            let mut ended = true;
            for child in &mut children {
                ended &= child.has_ended()?;
            }
            if ended {
                break;
            }
            if start.elapsed() > limit {
                return Err("a client does not end".to_owned());
            }
        }
    }
    while step(&mut switch, now(start)) > 0 {}
    let outcomes = children.into_iter().map(Running::outcome).collect::<Result<Vec<_>, _>>()?;
    let snapshot = switch.snapshot();
    check_conserved(&snapshot)?;
    let sent: u64 = outcomes.iter().map(|outcome| outcome.sent).sum();
    let received: u64 = outcomes.iter().map(|outcome| outcome.received).sum();
    if (snapshot.totals.from_clients, snapshot.totals.to_clients) != (sent, received) {
        return Err(format!("clients sent {sent} and got {received}: {:?}", snapshot.totals));
    }
    if !snapshot.sessions.iter().all(|s| s.counters.wakeups == 0) {
        return Err("a client that polls was woken".to_owned());
    }
    Ok((outcomes, snapshot))
}

#[inline(never)]
fn step(switch: &mut Switch, now: Time) -> usize {
    switch.step(now)
}

/// A child process; killed if it is dropped before its end.
struct Running {
    child: Child,
    ended: bool,
}

impl Running {
    fn start(
        task: Task,
        sessions: usize,
        size: usize,
        time: Duration,
        socket: OwnedFd,
    ) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(say("find this program"))?;
        let child = Command::new(program)
            .arg("client")
            .args(["--task", task.name()])
            .args(["--sessions", &sessions.to_string()])
            .args(["--size", &size.to_string()])
            .args(["--seconds", &time.as_secs_f64().to_string()])
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .spawn()
            .map_err(say("start a client process"))?;
        Ok(Self { child, ended: false })
    }

    fn has_ended(&mut self) -> Result<bool, String> {
        if !self.ended
            && let Some(status) = self.child.try_wait().map_err(say("wait for a client"))?
        {
            self.ended = true;
            if !status.success() {
                return Err(format!("a client failed: {status}"));
            }
        }
        Ok(self.ended)
    }

    fn outcome(mut self) -> Result<Outcome, String> {
        let mut text = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut text).map_err(say("read what a client says"))?;
        }
        serde_json::from_str(&text).map_err(say("understand what a client says"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

// ---- in the child ----

/// Plays a client; standard input is the socket that sessions arrive on.
///
/// # Errors
/// In words.
pub fn client(task: Task, sessions: usize, size: usize, time: Duration) -> Result<Outcome, String> {
    pin_or_warn(1, "client");
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(say("use the socket"))?;
    let channel = Channel::from(stdin);
    let mut views = (0..sessions).map(|_| rig::receive(&channel));
    let mut view = || views.next().unwrap_or_else(|| Err("too few sessions".to_owned()));
    match task {
        Task::Both => {
            both(&mut Generator::new(view()?, rig::frame(0, size)), &mut Sink::new(view()?), time)
        }
        Task::Generate => generate(&mut Generator::new(view()?, rig::frame(0, size)), time),
        Task::Sink => sink(&mut Sink::new(view()?)),
        Task::Latency => {
            let peer = Peer::new(view()?, rig::frame(0, size));
            round_trips(peer, Peer::new(view()?, rig::frame(1, size)), time)
        }
    }
}

fn both(generator: &mut Generator, sink: &mut Sink, time: Duration) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    for (part, length) in [WARM_UP, time].into_iter().enumerate() {
        let (begin, before) = (Instant::now(), sink.received);
        // On a busy machine a short while may pass without any frame.
        while begin.elapsed() < length || (sink.received == before && begin.elapsed() < PATIENCE) {
            for _ in 0..64 {
                generator.turn()?;
                sink.turn()?;
            }
        }
        if part == 1 {
            outcome.counted = sink.received - before;
            outcome.seconds = begin.elapsed().as_secs_f64();
        }
    }
    drain(generator, sink)?;
    (outcome.sent, outcome.received) = (generator.sent, sink.received);
    std::hint::black_box(sink.sum);
    Ok(outcome)
}

/// Until everything has arrived and every slot is back.
fn drain(generator: &mut Generator, sink: &mut Sink) -> Result<(), String> {
    let begin = Instant::now();
    while !generator.is_done()? || sink.received < generator.sent {
        sink.turn()?;
        if begin.elapsed() > PATIENCE {
            return Err(format!("{} sent, {} received", generator.sent, sink.received));
        }
    }
    Ok(())
}

fn generate(generator: &mut Generator, time: Duration) -> Result<Outcome, String> {
    let begin = Instant::now();
    while begin.elapsed() < WARM_UP + time {
        if generator.turn()? == 0 {
            std::thread::yield_now();
        }
    }
    while !generator.is_done()? {
        std::thread::yield_now();
        if begin.elapsed() > time + PATIENCE {
            return Err("slots do not come back".to_owned());
        }
    }
    Ok(Outcome { sent: generator.sent, ..Outcome::default() })
}

fn sink(sink: &mut Sink) -> Result<Outcome, String> {
    let (mut first, mut last) = (None, Instant::now());
    loop {
        if sink.turn()? == 0 {
            if last.elapsed() > if first.is_some() { SILENCE } else { PATIENCE } {
                break;
            }
            std::thread::yield_now();
            continue;
        }
        last = Instant::now();
        if first.is_none() {
            first = Some((last, sink.received));
        }
    }
    let (first, before) = first.ok_or("no frame arrived")?;
    std::hint::black_box(sink.sum);
    Ok(Outcome {
        received: sink.received,
        counted: sink.received - before,
        seconds: last.duration_since(first).as_secs_f64(),
        ..Outcome::default()
    })
}

/// One frame there and one back, again and again; both clients are polled by this thread.
fn round_trips(mut here: Peer, mut there: Peer, time: Duration) -> Result<Outcome, String> {
    let mut histogram = histogram();
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        let age = start.duration_since(begin);
        if age >= WARM_UP + time && (!histogram.is_empty() || age > PATIENCE) {
            break;
        }
        exchange(&mut here, &mut there)?;
        exchange(&mut there, &mut here)?;
        if age >= WARM_UP {
            let taken = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            histogram.saturating_record(taken);
        }
    }
    let sent = here.sent() + there.sent();
    // Slots of the last frames may be on their way; nothing waits for them.
    Ok(Outcome {
        sent,
        received: sent,
        counted: histogram.len(),
        seconds: time.as_secs_f64(),
        round_trips: percentiles(&histogram).to_vec(),
    })
}

/// Nanoseconds at p50, p90, p99, p99.9 and the longest.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "nanoseconds")]
pub fn percentiles(histogram: &hdrhistogram::Histogram<u64>) -> [f64; 5] {
    [0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| histogram.value_at_quantile(quantile) as f64)
}

/// One frame from one to the other.
#[inline]
fn exchange(from: &mut Peer, to: &mut Peer) -> Result<(), String> {
    let number = from.sent();
    from.send()?;
    let mut turns = 0u64;
    loop {
        if let Some(seen) = to.poll()? {
            return if seen == number { Ok(()) } else { Err(format!("{seen} for {number}")) };
        }
        turns += 1;
        if turns > 1 << 36 {
            return Err("a frame was lost".to_owned());
        }
        core::hint::spin_loop();
    }
}
