//! A pool with several sessions against a map that says for each slot who has it.
//!
//! Half of the operations are such that the map says they must be refused; then nothing may change.

use super::Bytes;
use super::world::Backing;
use crate::arena::SlotRange;
use crate::descriptor::{Fault, MAX_SLOTS, RawDescriptor, RingName};
use crate::ledger::{Audit, SessionId};
use crate::pool::{ClientFrame, Ended, Frame, HomeId, HomeKind, Pool, Returned, Tail};
use crate::region::Writer;
use std::collections::{BTreeSet, HashMap};

/// Slots of each home.
const HOME: u32 = 4;
/// Slots that may be lent to several at once.
const SHARED: u16 = 2;
/// Bytes of a head.
const HEAD: u16 = 20;
/// Sessions that come and go.
const SESSIONS: u8 = 4;
/// Slots that have a home at most: ports, and two homes a session.
const SLOTS: u32 = HOME * (1 + 2 * SESSIONS as u32);

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Make session `.0` if its number is free.
    Attach(u8),
    /// Take a slot of the port home.
    Alloc,
    /// Take a slot of session `.0`'s receive home.
    AllocFrom(u8),
    /// Free the daemon's token number `.0`.
    Free(u8),
    /// Lend token `.0` to session `.1`.
    Lend(u8, u8),
    /// Session `.0` names slot number `.1` on its fill ring.
    TakeBack(u8, u8),
    /// Session `.0` names slot number `.1` on its tx ring.
    Accept(u8, u8),
    /// Give client token `.0` back to its session.
    Complete(u8),
    /// Pass client token `.0` on to session `.1`.
    Pass(u8, u8),
    /// Make a head for client token `.0`, which becomes its tail.
    Join(u8),
    /// End session `.0`.
    End(u8),
    /// Lend token `.0` to the sessions of these bits at once.
    Share(u8, u8),
}

impl Op {
    /// Every two bytes are an operation.
    #[must_use]
    pub const fn from_bytes(kind: u8, which: u8) -> Self {
        let session = kind >> 4 & (SESSIONS - 1);
        match kind & 15 {
            0 => Self::Attach(session),
            1 | 2 => Self::Alloc,
            3 => Self::AllocFrom(session),
            4 => Self::Free(which),
            5 | 6 => Self::Lend(which, session),
            7 if which >= 192 => Self::Share(which & 63, kind >> 4),
            7..=9 => Self::TakeBack(session, which),
            10 | 11 => Self::Accept(session, which),
            12 => Self::Complete(which),
            13 => Self::Pass(which, session),
            14 => Self::Join(which),
            _ if which < 64 => Self::End(session),
            _ => Self::Attach(session),
        }
    }
}

/// Who has a slot, by the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Free,
    Daemon,
    Taken,
    /// With the sessions of these bits.
    Shared(u8),
    /// With a session; `true` for a transmit slot at rest with its own.
    Lent(SessionId, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    kind: HomeKind,
    at: Where,
}

#[derive(Clone, Copy, Debug, Default)]
struct Session {
    live: bool,
    receive: Option<HomeId>,
}

/// The pool, the map, and all tokens.
#[derive(Debug)]
pub struct Model {
    pool: Pool,
    slots: HashMap<u32, Slot>,
    sessions: [Session; SESSIONS as usize],
    frames: Vec<Frame>,
    client_frames: Vec<(ClientFrame, u32)>,
    /// By slot of the head: the client's slot in which its frame goes on.
    tails: HashMap<u32, u32>,
    /// Slots that must come out as released.
    released: Vec<(SessionId, RawDescriptor)>,
    spare: Vec<SlotRange>,
    /// First slots of ranges that are in the pool.
    entered: BTreeSet<u32>,
    /// First slots of the homes that closed in this step, by the map.
    closed: BTreeSet<u32>,
    /// All numbers that a session may name: first slots of segments, homes and what lies beside.
    names: Vec<u32>,
}

impl Model {
    /// A pool with a port home and no session.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn new(backing: Backing) -> Self {
        let arena = backing.arena();
        let add = |writer| arena.add_segment("model", writer, 1, false).expect("a segment");
        let mut daemon = SlotRange::whole(add(Writer::Daemon));
        let mut client = SlotRange::whole(add(Writer::Client));
        let port = daemon.split(HOME).expect("room");
        let range = port.first()..port.first() + HOME;
        let slots = range.map(|s| (s, Slot { kind: HomeKind::Port, at: Where::Free })).collect();
        let mut names: Vec<u32> = (0..HOME).collect();
        let mut spare = Vec::new();
        for _ in 0..SESSIONS {
            for segment in [&mut daemon, &mut client] {
                let range = segment.split(HOME).expect("room");
                names.extend(range.first()..range.first() + HOME);
                spare.push(range);
            }
        }
        names.extend([daemon.first(), client.first(), arena.slots() - 1]);
        names.extend([arena.slots(), MAX_SLOTS - 1]);
        let mut pool = Pool::new(port).expect("a daemon-written range");
        pool.allow_tails();
        pool.allow_shared(SHARED);
        Self {
            pool,
            slots,
            sessions: [Session::default(); SESSIONS as usize],
            frames: Vec::new(),
            client_frames: Vec::new(),
            tails: HashMap::new(),
            released: Vec::new(),
            spare,
            entered: BTreeSet::new(),
            closed: BTreeSet::new(),
            names,
        }
    }

    fn session(&mut self, session: u8) -> (SessionId, &mut Session) {
        let index = session % SESSIONS;
        (SessionId(index.into()), &mut self.sessions[usize::from(index)])
    }

    fn name(&self, which: u8) -> u32 {
        self.names[usize::from(which) % self.names.len()]
    }

    fn slot(&mut self, slot: u32) -> &mut Slot {
        self.slots.get_mut(&slot).expect("a slot with a home")
    }

    /// Does `op` on both sides and compares.
    ///
    /// # Panics
    /// Where they disagree.
    pub fn step(&mut self, op: Op) {
        match op {
            Op::Attach(session) => self.attach(session),
            Op::Alloc => self.alloc(self.pool.port_home(), HomeKind::Port),
            Op::AllocFrom(session) => {
                let (id, session) = self.session(session);
                if let Some(home) = session.receive {
                    self.alloc(home, HomeKind::Receive(id));
                }
            }
            Op::Free(which) => {
                if let Some(frame) = pick(&mut self.frames, which) {
                    self.slot(frame.slot()).at = Where::Free;
                    self.tail_goes_home(frame.slot());
                    self.pool.free(frame);
                }
            }
            Op::Lend(which, to) => self.lend(which, to),
            Op::TakeBack(session, which) => self.take_back(session, which),
            Op::Accept(session, which) => self.accept(session, which),
            Op::Complete(which) => self.complete(which),
            Op::Pass(which, to) => self.pass(which, to),
            Op::Join(which) => self.join(which),
            Op::End(session) => self.end(session),
            Op::Share(which, to) => self.share(which, to),
        }
        self.compare();
    }

    fn attach(&mut self, session: u8) {
        let (id, state) = self.session(session);
        if state.live || self.pool.has_homes(id) {
            return;
        }
        for (writer, kind) in
            [(Writer::Daemon, HomeKind::Receive(id)), (Writer::Client, HomeKind::Transmit(id))]
        {
            let at = self.spare.iter().position(|r| r.segment().writer() == writer);
            let range = self.spare.remove(at.expect("as many ranges as sessions"));
            let at = if writer == Writer::Daemon { Where::Free } else { Where::Lent(id, true) };
            for slot in range.first()..range.first() + range.count() {
                assert_eq!(self.slots.insert(slot, Slot { kind, at }), None, "in two homes");
            }
            assert!(self.entered.insert(range.first()));
            let home = self.pool.add_home(kind, range).expect("a home");
            if writer == Writer::Daemon {
                self.session(session).1.receive = Some(home);
            }
        }
        self.session(session).1.live = true;
    }

    fn alloc(&mut self, home: HomeId, kind: HomeKind) {
        let free = self.slots.values().filter(|s| s.kind == kind && s.at == Where::Free).count();
        match self.pool.alloc_from(home) {
            Some(frame) => {
                let slot = self.slot(frame.slot());
                assert_eq!(*slot, Slot { kind, at: Where::Free }, "handed out twice");
                slot.at = Where::Daemon;
                self.frames.push(frame);
            }
            None => assert_eq!(free, 0, "free slots and none is given"),
        }
    }

    fn lend(&mut self, which: u8, to: u8) {
        let (id, state) = self.session(to);
        if !state.live {
            return;
        }
        if let Some(frame) = pick(&mut self.frames, which) {
            let slot = frame.slot();
            let has_tail = self.tail_goes_home(slot);
            assert_eq!(self.pool.is_joined(&frame), has_tail);
            if has_tail {
                assert!(self.pool.bytes(&frame).is_empty(), "shown to whoever knows of no tails");
            }
            assert_eq!(self.pool.release_tail(&frame), has_tail);
            self.slot(slot).at = Where::Lent(id, false);
            let raw = self.pool.lend(frame, id).expect("a frame of this pool");
            let length = if has_tail { HEAD } else { 0 };
            assert_eq!(raw, RawDescriptor::new(slot, 0, length));
        }
    }

    fn share(&mut self, which: u8, bits: u8) {
        let to: Vec<SessionId> = (0..SESSIONS)
            .filter(|session| bits >> session & 1 == 1)
            .map(|session| SessionId(session.into()))
            .collect();
        if !to.iter().all(|id| self.session_is_live(*id)) {
            return;
        }
        let Some(frame) = pick(&mut self.frames, which) else { return };
        let slot = frame.slot();
        let shared = self.slots.values().filter(|s| matches!(s.at, Where::Shared(_))).count();
        let kind = self.slot(slot).kind;
        let fits = to.len() > 1
            && kind == HomeKind::Port
            && shared < usize::from(SHARED)
            && !self.tails.contains_key(&slot);
        match self.pool.lend_to_all(frame, &to) {
            Ok(raw) => {
                assert!(fits, "lent to {to:?}");
                assert_eq!(raw.slot(), slot);
                self.slot(slot).at = Where::Shared(bits & ((1 << SESSIONS) - 1));
            }
            Err(frame) => {
                assert!(!fits, "refused for no reason");
                self.frames.push(frame);
            }
        }
    }

    fn join(&mut self, which: u8) {
        let Some((frame, of_client)) = pick(&mut self.client_frames, which) else { return };
        let is_free = |s: &&Slot| s.kind == HomeKind::Port && s.at == Where::Free;
        match self.pool.join(&[7; 3], frame, HEAD) {
            Ok(head) => {
                let slot = self.slot(head.slot());
                assert_eq!(
                    *slot,
                    Slot { kind: HomeKind::Port, at: Where::Free },
                    "handed out twice"
                );
                slot.at = Where::Daemon;
                let tail = Tail { slot: of_client, offset: 1 + HEAD, length: 60 - HEAD };
                assert_eq!(self.pool.tail(&head), Some(tail));
                assert_eq!(self.tails.insert(head.slot(), of_client), None, "two tails");
                self.frames.push(head);
            }
            Err(frame) => {
                assert_eq!(self.slots.values().filter(is_free).count(), 0, "refused for no reason");
                self.client_frames.push((frame, of_client));
            }
        }
    }

    /// What the map says of a head's tail when the two are parted. Whether there is one.
    fn tail_goes_home(&mut self, head: u32) -> bool {
        let Some(slot) = self.tails.remove(&head) else { return false };
        let HomeKind::Transmit(of) = self.slot(slot).kind else { unreachable!("accepted") };
        self.slot(slot).at = Where::Lent(of, true);
        if self.session_is_live(of) {
            self.released.push((of, RawDescriptor::new(slot, 0, 0)));
        }
        true
    }

    fn take_back(&mut self, session: u8, which: u8) {
        let (id, state) = self.session(session);
        if !state.live {
            return;
        }
        let slot = self.name(which);
        let count = self.pool.arena().slots();
        let returned = self.pool.take_back(id, RawDescriptor::new(slot, 9, 9));
        let expected = match self.slots.get_mut(&slot) {
            Some(Slot { kind, at }) if *at == Where::Lent(id, false) => match *kind {
                HomeKind::Transmit(of) => {
                    *at = Where::Lent(of, true);
                    let raw = RawDescriptor::new(slot, 0, 0);
                    let live = self.session_is_live(of);
                    Ok(if live { Returned::Completed(of, raw) } else { Returned::Free })
                }
                _ => {
                    *at = Where::Free;
                    Ok(Returned::Free)
                }
            },
            Some(Slot { at: Where::Shared(bits), .. }) if *bits >> id.0 & 1 == 1 => {
                *bits &= !(1 << id.0);
                Ok(Returned::Shared)
            }
            _ => Err(refusal(RingName::Fill, slot, count)),
        };
        let expected = match self.slots.get_mut(&slot) {
            Some(Slot { at: at @ Where::Shared(0), .. }) => {
                *at = Where::Free;
                Ok(Returned::Free)
            }
            _ => expected,
        };
        assert_eq!(returned, expected, "slot {slot}");
    }

    fn session_is_live(&self, id: SessionId) -> bool {
        self.sessions[usize::from(id.0)].live
    }

    fn accept(&mut self, session: u8, which: u8) {
        let (id, state) = self.session(session);
        if !state.live {
            return;
        }
        let slot = self.name(which);
        let count = self.pool.arena().slots();
        let accepted = self.pool.accept(id, RawDescriptor::new(slot, 1, 60));
        match self.slots.get_mut(&slot) {
            Some(Slot { kind: HomeKind::Transmit(of), at })
                if *of == id && *at == Where::Lent(id, true) =>
            {
                *at = Where::Taken;
                self.client_frames.push((accepted.expect("its own slot, at rest"), slot));
            }
            _ => assert_eq!(accepted, Err(refusal(RingName::Tx, slot, count))),
        }
    }

    fn complete(&mut self, which: u8) {
        let Some((frame, slot)) = pick(&mut self.client_frames, which) else { return };
        let HomeKind::Transmit(of) = self.slot(slot).kind else { unreachable!("accepted") };
        self.slot(slot).at = Where::Lent(of, true);
        let live = self.session_is_live(of);
        let expected = live.then(|| (of, RawDescriptor::new(slot, 0, 0)));
        assert_eq!(self.pool.complete(frame), expected);
    }

    fn pass(&mut self, which: u8, to: u8) {
        let (id, state) = self.session(to);
        if !state.live {
            return;
        }
        let Some((frame, slot)) = pick(&mut self.client_frames, which) else { return };
        let own = self.slot(slot).kind == HomeKind::Transmit(id);
        match self.pool.pass(frame, id) {
            Ok(raw) => {
                assert!(!own, "passed to its own session");
                assert_eq!(raw, RawDescriptor::new(slot, 1, 60));
                self.slot(slot).at = Where::Lent(id, false);
            }
            Err(frame) => {
                assert!(own, "refused for no reason");
                self.client_frames.push((frame, slot));
            }
        }
    }

    fn end(&mut self, session: u8) {
        let (id, state) = self.session(session);
        if !state.live {
            return;
        }
        *state = Session::default();
        let Ended { mut completed, recovered, away } = self.pool.end_session(id);
        let (mut expected, mut came_back) = (Vec::new(), 0);
        let live = self.sessions.map(|s| s.live);
        let is_live = |id: SessionId| live.get(usize::from(id.0)).is_some_and(|live| *live);
        for (slot, Slot { kind, at }) in &mut self.slots {
            if let Where::Shared(bits) = at {
                let held = *bits >> id.0 & 1 == 1;
                *bits &= !(1 << id.0);
                if held && *bits == 0 {
                    *at = Where::Free;
                    came_back += 1;
                }
            }
            if *at != Where::Lent(id, false) {
                continue;
            }
            let home_lives = match *kind {
                HomeKind::Port => true,
                HomeKind::Receive(of) | HomeKind::Transmit(of) => is_live(of),
            };
            came_back += u32::from(home_lives);
            *at = Where::Free;
            if let HomeKind::Transmit(of) = *kind {
                *at = Where::Lent(of, true);
                if home_lives {
                    expected.push((of, RawDescriptor::new(*slot, 0, 0)));
                }
            }
        }
        let order = |(_, raw): &(SessionId, RawDescriptor)| raw.0;
        completed.sort_by_key(order);
        expected.sort_by_key(order);
        assert_eq!((completed, recovered), (expected, came_back));
        let out = self.slots.values().filter(|s| is_of(s.kind, id) && !is_home(s.at)).count();
        assert_eq!(away as usize, out, "slots of the ended session with others");
    }

    /// Compares every count, and takes the homes out of the map that must have closed.
    fn compare(&mut self) {
        for id in (0..u16::from(SESSIONS)).map(SessionId) {
            let live = self.session_is_live(id);
            let mut has_homes = false;
            for kind in [HomeKind::Receive(id), HomeKind::Transmit(id)] {
                let of_kind = || self.slots.iter().filter(|(_, s)| s.kind == kind);
                if !live && of_kind().count() > 0 && of_kind().all(|(_, s)| is_home(s.at)) {
                    self.closed.extend(of_kind().map(|(slot, _)| *slot).min());
                    self.slots.retain(|_, s| s.kind != kind);
                } else {
                    has_homes |= of_kind().count() > 0;
                }
            }
            assert_eq!(self.pool.has_homes(id), has_homes, "session {id}");
        }
        for range in self.pool.take_closed() {
            assert!(self.closed.remove(&range.first()), "closed early, twice or never entered");
            assert!(self.entered.remove(&range.first()));
            self.spare.push(range);
        }
        assert!(self.closed.is_empty(), "homes did not close: {:?}", self.closed);
        assert_eq!(self.pool.has_released(), !self.released.is_empty());
        while let Some(back) = self.pool.take_released() {
            let at = self.released.iter().position(|expected| *expected == back);
            self.released.swap_remove(at.expect("released once, to its session"));
        }
        assert!(self.released.is_empty(), "not released: {:?}", self.released);

        let mut expected = Audit::default();
        for slot in self.slots.values() {
            match slot.at {
                Where::Free => expected.free += 1,
                Where::Daemon => expected.daemon += 1,
                Where::Taken => expected.taken += 1,
                Where::Shared(_) => expected.shared += 1,
                Where::Lent(..) => expected.lent += 1,
            }
        }
        let (audit, slots) = self.pool.audit();
        assert_eq!((audit, audit.total()), (expected, slots));
    }

    /// Ends everything, gives all tokens back, and checks that every range came home.
    ///
    /// # Panics
    /// If not.
    pub fn finish(mut self) {
        (0..SESSIONS).for_each(|session| self.step(Op::End(session)));
        while !self.frames.is_empty() {
            self.step(Op::Free(0));
        }
        while !self.client_frames.is_empty() {
            self.step(Op::Complete(0));
        }
        assert_eq!((self.slots.len(), self.spare.len()), (HOME as usize, 2 * SESSIONS as usize));
        assert_eq!(self.pool.free_slots(), HOME as usize);
    }
}

const _: () = assert!(SLOTS < 256, "every slot can be named by a byte");

fn is_home(at: Where) -> bool {
    matches!(at, Where::Free | Where::Lent(_, true))
}

fn is_of(kind: HomeKind, id: SessionId) -> bool {
    matches!(kind, HomeKind::Receive(of) | HomeKind::Transmit(of) if of == id)
}

fn refusal(ring: RingName, slot: u32, count: u32) -> Fault {
    match slot < count {
        true => Fault::NotHeld { ring, slot },
        false => Fault::NoSuchSlot { ring, slot, count },
    }
}

fn pick<T>(from: &mut Vec<T>, which: u8) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(usize::from(which) % from.len()))
}

/// Decodes and runs: two bytes an operation.
///
/// # Panics
/// Where pool and map disagree.
pub fn run_bytes(data: &[u8]) {
    let mut model = Model::new(Backing::Heap);
    let mut bytes = Bytes(data);
    for _ in 0..4096 {
        if bytes.is_empty() {
            break;
        }
        let (kind, which) = (bytes.byte(), bytes.byte());
        model.step(Op::from_bytes(kind, which));
    }
    model.finish();
}
