//! The socket of usnetd 0.1: who asks, and which helper does what was asked.
//!
//! ```text
//!   datagram, credentials --> Request --> new helper | word to its helper | answer at once
//!   helper's reply                    --> answer to the program that waits for it
//!   process or helper ends            --> all that it had is gone
//! ```
//!
//! - One thread, which never waits for a program or a helper.
//! - A path belongs to the process and user that asked first, until that process ends or gives it up.
//! - Programs are bounded in all and for each user.

use super::helper::{Reply, Word};
use super::message::{GRANTED, HANDED_OVER, LONGEST, REFUSED, Request, UsedPorts, Wish};
use crate::ask::Daemon;
use crate::config::protocol_number;
use crate::control::group::give_to_group;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_passcred, set_socket_send_buffer_size, set_socket_send_buffer_size_force,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, UCred, bind, recv,
    recvmsg, send, sendmsg_addr, socket_with, socketpair,
};
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use usnet_shmring::control::QueryKind;

/// Datagrams that are looked at before anything else is.
const TURN: usize = 64;
/// Room for answers that programs have not read: a table of ports may be long.
const SEND_BUFFER: usize = 4 << 20;
/// How old a table of used ports may be.
const FRESH: Duration = Duration::from_millis(100);
/// Requests of one program that wait for its helper.
const WAITING: usize = 64;
/// Entries of the longest table of used ports.
const MOST_PORTS: usize = 200_000;

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct GatewaySpec {
    /// The socket that programs of the predecessor know.
    pub socket: PathBuf,
    /// Who may use it, as of `chmod`.
    pub mode: u32,
    /// Its group, if not our own.
    pub group: Option<u32>,
    /// The daemon's control socket.
    pub usnetd: PathBuf,
    /// The helper's program, which is given arguments as `usnetd compat-helper` takes them.
    pub helper: PathBuf,
    /// Programs at one time.
    pub programs: usize,
    /// Of these, of one user.
    pub programs_per_user: usize,
}

/// What happened, in numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Programs that were handed a socket.
    pub attached: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Datagrams that were no request, or from a socket without a name.
    pub unreadable: u64,
    /// Answers that the program had no room for, or that had nowhere to go.
    pub unanswered: u64,
}

/// The gateway. Dropping it ends all helpers and removes the socket.
#[derive(Debug)]
pub struct Gateway {
    spec: GatewaySpec,
    socket: OwnedFd,
    programs: Vec<Program>,
    used: Option<(Instant, Vec<u8>)>,
    counters: Counters,
}

/// What a program waits for.
#[derive(Clone, Copy, Debug)]
enum Waits {
    Attach,
    Claim(Wish),
    Release(Wish),
}

#[derive(Debug)]
struct Program {
    address: SocketAddrUnix,
    who: UCred,
    /// Readable once it has ended.
    process: OwnedFd,
    helper: Child,
    words: OwnedFd,
    /// Its end of the datagrams, until it is handed over.
    end: Option<OwnedFd>,
    waits: VecDeque<Waits>,
    held: Vec<Wish>,
    has_ended: bool,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.helper.kill();
        let _ = self.helper.wait();
    }
}

impl Gateway {
    /// Opens the socket.
    ///
    /// # Errors
    /// Somebody else has it, or the place is no place for a socket.
    pub fn open(spec: GatewaySpec) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        set_socket_passcred(&socket, true)?;
        if set_socket_send_buffer_size_force(&socket, SEND_BUFFER).is_err() {
            set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
        }
        let address = SocketAddrUnix::new(&spec.socket)?;
        let is_socket =
            std::fs::symlink_metadata(&spec.socket).is_ok_and(|m| m.file_type().is_socket());
        if is_socket {
            let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
            if rustix::net::connect(&probe, &address).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            // Left behind by one that was killed.
            std::fs::remove_file(&spec.socket)?;
        }
        bind(&socket, &address)?;
        let mode = std::fs::Permissions::from_mode(spec.mode);
        std::fs::set_permissions(&spec.socket, mode)?;
        if let Some(group) = spec.group {
            give_to_group(&spec.socket, group)?;
        }
        let counters = Counters::default();
        Ok(Self { spec, socket, programs: Vec::new(), used: None, counters })
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Serves until `stop` is readable.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn serve(&mut self, stop: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            let mut watched = vec![
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
                PollFd::new(&self.socket, PollFlags::IN),
            ];
            for program in &self.programs {
                watched.push(PollFd::new(&program.process, PollFlags::IN));
                watched.push(PollFd::new(&program.words, PollFlags::IN));
            }
            let longest = Timespec { tv_sec: 1, tv_nsec: 0 };
            match poll(&mut watched, Some(&longest)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let is_ready =
                |place: Option<&PollFd<'_>>| place.is_some_and(|w| !w.revents().is_empty());
            let mut ready = watched.iter().map(|place| is_ready(Some(place)));
            let (has_stopped, has_requests) =
                (ready.next().unwrap_or(false), ready.next().unwrap_or(false));
            let each: Vec<bool> = ready.collect();
            if has_stopped {
                return Ok(());
            }
            for (index, pair) in each.chunks(2).enumerate() {
                let [has_ended, has_replies] = pair else { break };
                if *has_replies {
                    self.take_replies(index);
                }
                if let Some(program) = self.programs.get_mut(index) {
                    program.has_ended |= *has_ended;
                }
            }
            self.programs.retain(|program| !program.has_ended);
            if has_requests {
                self.take_requests();
            }
        }
    }

    fn take_requests(&mut self) {
        for _ in 0..TURN {
            let mut buffer = [0; LONGEST];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            // Descriptors find no room in the control buffer, and are closed by the kernel.
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC | RecvFlags::CMSG_CLOEXEC;
            let Ok(message) = recvmsg(&self.socket, &mut parts, &mut control, flags) else {
                return;
            };
            let who = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(who) => Some(who),
                _ => None,
            });
            let from = message.address.and_then(|from| SocketAddrUnix::try_from(from).ok());
            let from = from.filter(|a| a.path().is_some() || a.abstract_name().is_some());
            let (Some(from), Some(who)) = (from, who) else {
                self.counters.unreadable += 1;
                tracing::debug!(
                    "a request from a socket without a name: there is no way to answer"
                );
                continue;
            };
            match buffer.get(..message.bytes).and_then(Request::read) {
                Some(request) => self.carry_out(&from, who, request),
                None => {
                    self.counters.unreadable += 1;
                    self.refuse(&from, who, "no request of usnetd 0.1");
                }
            }
        }
    }

    fn carry_out(&mut self, from: &SocketAddrUnix, who: UCred, request: Request) {
        let known = self.programs.iter().position(|p| p.address == *from);
        let is_ours =
            |p: &Program| p.who.uid == who.uid && (p.who.pid == who.pid || who.uid.is_root());
        let is_stranger =
            known.and_then(|index| self.programs.get(index)).is_some_and(|p| !is_ours(p));
        let wants_answer = request.wants_answer();
        let done = match (request, known) {
            _ if is_stranger => Err("another process has attached from this path"),
            (Request::QueryUsedPorts, _) => {
                let answer = self.used_ports();
                return match answer {
                    Ok(answer) => self.answer(from, &answer, None),
                    Err(error) => self.refuse(from, who, &error),
                };
            }
            (Request::RequestNetmapPipe(..), _) => {
                Err("pipes of netmap are served by `usnetd pipe`")
            }
            (Request::RequestUDS(..), Some(_)) => Err("this path has attached already"),
            (Request::RequestUDS(interface, _), None) => match self.attach(from, who, &interface) {
                Ok(()) => Ok(()),
                Err(error) => return self.refuse(from, who, &error.to_string()),
            },
            (Request::DeleteClient, Some(index)) => {
                drop(self.programs.swap_remove(index));
                Ok(())
            }
            (Request::AddMatch(matched), Some(index)) => matched.wish().and_then(|wish| {
                let program = self.programs.get_mut(index).ok_or("it has gone")?;
                if program.held.contains(&wish) {
                    return Err("it has this match already");
                }
                program.pass(Word::Claim(wish), Waits::Claim(wish))
            }),
            (Request::RemoveMatch(matched), Some(index)) => matched.wish().and_then(|wish| {
                let program = self.programs.get_mut(index).ok_or("it has gone")?;
                if !program.held.contains(&wish) {
                    return Err("it has no such match");
                }
                program.pass(Word::Release(wish), Waits::Release(wish))?;
                // Its helper does one thing after the other: what is asked next comes after that.
                program.held.retain(|held| *held != wish);
                Ok(())
            }),
            (Request::AddMatch(_) | Request::RemoveMatch(_) | Request::DeleteClient, None) => {
                Err("nothing is attached from this path")
            }
        };
        match done {
            // Its helper's reply is the answer.
            Ok(()) => {}
            Err(why) if wants_answer => self.refuse(from, who, why),
            Err(why) => {
                self.counters.refused += 1;
                tracing::info!(pid = who.pid.as_raw_nonzero(), why, "refused, unanswered");
            }
        }
    }

    /// Starts a helper for a program.
    fn attach(&mut self, from: &SocketAddrUnix, who: UCred, interface: &str) -> io::Result<()> {
        let text = |text: &str| io::Error::other(text.to_owned());
        let of_user = self.programs.iter().filter(|p| p.who.uid == who.uid).count();
        if self.programs.len() >= self.spec.programs || of_user >= self.spec.programs_per_user {
            return Err(text("too many programs are attached"));
        }
        let process = pidfd_open(who.pid, PidfdFlags::empty())?;
        let pair = |kind| {
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)
        };
        let (words, their_words) = pair(SocketType::SEQPACKET)?;
        let (end, their_end) = pair(SocketType::DGRAM)?;
        let mut helper = Command::new(&self.spec.helper);
        helper
            .arg("compat-helper")
            .args(["--interface", interface])
            .args(["--name", &name_of(who.pid)])
            .arg("--usnetd")
            .arg(&self.spec.usnetd)
            .stdin(Stdio::from(their_words))
            .stdout(Stdio::from(their_end));
        if geteuid().is_root() && !who.uid.is_root() {
            // Groups beyond these go, too.
            helper.gid(who.gid.as_raw()).uid(who.uid.as_raw());
        }
        let helper = helper.spawn()?;
        self.programs.push(Program {
            address: from.clone(),
            who,
            process,
            helper,
            words,
            end: Some(end),
            waits: VecDeque::from([Waits::Attach]),
            held: Vec::new(),
            has_ended: false,
        });
        Ok(())
    }

    /// What a helper has said. A helper that ends, or says what cannot be understood, is gone.
    fn take_replies(&mut self, index: usize) {
        loop {
            let Some(program) = self.programs.get_mut(index) else { return };
            let mut buffer = [0; 4096];
            let length = match recv(&program.words, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => 0,
            };
            let reply: Option<Reply> =
                buffer.get(..length).and_then(|json| serde_json::from_slice(json).ok());
            let waits = program.waits.pop_front();
            let (address, who) = (program.address.clone(), program.who);
            let Some((reply, waits)) = reply.zip(waits) else {
                program.has_ended = true;
                if waits.is_some() {
                    self.refuse(&address, who, "its helper has ended");
                }
                return;
            };
            match (waits, reply.granted) {
                (Waits::Attach, true) => {
                    let end = program.end.take();
                    self.counters.attached += 1;
                    self.answer(&address, HANDED_OVER, end.as_ref());
                }
                (Waits::Claim(wish), true) => {
                    program.held.push(wish);
                    self.answer(&address, GRANTED, None);
                }
                (Waits::Release(wish), true) => program.held.retain(|held| *held != wish),
                (Waits::Release(_), false) => self.counters.refused += 1,
                (Waits::Claim(_), false) => self.refuse(&address, who, &reply.why),
                (Waits::Attach, false) => {
                    program.has_ended = true;
                    self.refuse(&address, who, &reply.why);
                }
            }
        }
    }

    /// The answer to a question for used ports, perhaps some moments old.
    fn used_ports(&mut self) -> Result<Vec<u8>, String> {
        if let Some((when, answer)) = &self.used
            && when.elapsed() < FRESH
        {
            return Ok(answer.clone());
        }
        let rules = Daemon::connect(&self.spec.usnetd)
            .and_then(|mut daemon| daemon.query(QueryKind::Rules, 0))
            .map_err(|error| error.to_string())?;
        let listening = rules.1.as_array().into_iter().flatten().flat_map(ports).take(MOST_PORTS);
        let used = UsedPorts { listening: listening.collect(), connected: Vec::new() };
        let answer = used.write();
        self.used = Some((Instant::now(), answer.clone()));
        Ok(answer)
    }

    fn refuse(&mut self, to: &SocketAddrUnix, who: UCred, why: &str) {
        self.counters.refused += 1;
        tracing::info!(pid = who.pid.as_raw_nonzero(), uid = who.uid.as_raw(), why, "refused");
        self.answer(to, REFUSED, None);
    }

    /// Sends an answer, unless there is no room for it.
    fn answer(&mut self, to: &SocketAddrUnix, bytes: &[u8], end: Option<&OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let ends: Vec<BorrowedFd<'_>> = end.into_iter().map(AsFd::as_fd).collect();
        if !ends.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&ends));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let parts = [IoSlice::new(bytes)];
        if let Err(error) = sendmsg_addr(&self.socket, to, &parts, &mut control, flags) {
            self.counters.unanswered += 1;
            tracing::debug!(%error, "an answer was not taken");
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.programs.clear();
        let _ = std::fs::remove_file(&self.spec.socket);
    }
}

impl Program {
    /// Has the helper do something.
    fn pass(&mut self, word: Word, waits: Waits) -> Result<(), &'static str> {
        if self.waits.len() >= WAITING {
            return Err("too many requests wait");
        }
        let json = serde_json::to_vec(&word).map_err(|_| "it cannot be said")?;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        send(&self.words, &json, flags).map_err(|_| "its helper does not listen")?;
        self.waits.push_back(waits);
        Ok(())
    }
}

/// The ports of one rule of the daemon.
fn ports(rule: &Value) -> impl Iterator<Item = super::message::UsedPort> + use<> {
    let number = |key: &str| rule[key].as_u64().and_then(|n| u16::try_from(n).ok());
    let protocol = rule["protocol"].as_str().and_then(protocol_number);
    let address: Option<IpAddr> = rule["address"].as_str().and_then(|text| text.parse().ok());
    // Protocols without ports are listed with none.
    let range = number("first_port").filter(|first| *first != 0).zip(number("last_port"));
    let found = protocol.zip(address).zip(range);
    found.into_iter().flat_map(|((protocol, address), (first, last))| {
        (first..=last).map(move |port| (protocol, address.into(), port))
    })
}

/// What status output calls the program of a process.
fn name_of(pid: Pid) -> String {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    let name = name.unwrap_or_default();
    let name = if name.trim().is_empty() { "?" } else { name.trim() };
    format!("{name} (0.1)")
}
