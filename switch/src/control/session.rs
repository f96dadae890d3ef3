//! The life of a connection, as states and what each message does in them. Pure.
//!
//! ```text
//!                Granted                Detach, order, lost, fault           home
//!   Connected ------------> Attached ------------------------------> Ending ------> Gone
//!       |                                                                             ^
//!       +------------------- lost, order, violation ----------------------------------+
//! ```
//!
//! - Each message is legal in named states only; any other one ends the session.
//! - A session attaches at most once, is detached from its worker at most once, and its number is
//!   free only after the worker said that its last slot is home.

use usnet_shmring::control::Kind;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not attached.
    Connected,
    /// It has a session.
    Attached,
    /// The session is over; its slots come home.
    Ending,
    /// Nothing is left.
    Gone,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A well-formed message arrived.
    Message(Kind),
    /// Something else arrived.
    Malformed,
    /// What [`Action::Attach`] asked for was done.
    Granted,
    /// It hung up, its process died, it took too long, or it does not read.
    Lost,
    /// Somebody with the right to do so wants it to end.
    Order,
    /// The worker has ended the session: no frame of it moves any more.
    Ended,
    /// The worker has its last slot back.
    Home,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Try to make a session. If it works, [`Input::Granted`] follows.
    Attach,
    /// Carry the request out and answer.
    Answer,
    /// Say that this is against the protocol, and hang up.
    Refuse,
    /// As [`Action::Refuse`], and have the worker end the session.
    RefuseAndDetach,
    /// Have the worker end the session; the client waits for the answer.
    Detach,
    /// Hang up, and have the worker end the session.
    HangUpAndDetach,
    /// Free what the session held, tell the client, hang up.
    Farewell,
    /// Hang up.
    HangUp,
    /// The session's number may be used again.
    Forget,
}

impl State {
    /// The next state, and what is to be done.
    #[must_use]
    pub const fn on(self, input: Input) -> (Self, Action) {
        use Kind::{Ask, Attach, Claim, ClaimRule, Detach, Query, Release, ReleaseRule};
        match (self, input) {
            (Self::Connected, Input::Message(Attach)) => (self, Action::Attach),
            (Self::Connected, Input::Granted) => (Self::Attached, Action::Nothing),
            (Self::Connected, Input::Message(Query | Ask))
            | (
                Self::Attached,
                Input::Message(Claim | Release | ClaimRule | ReleaseRule | Query | Ask),
            ) => (self, Action::Answer),
            (Self::Connected, Input::Message(_) | Input::Malformed) => (Self::Gone, Action::Refuse),
            (Self::Connected, Input::Lost | Input::Order) => (Self::Gone, Action::HangUp),
            (Self::Connected, Input::Ended | Input::Home) => (self, Action::Nothing),

            (Self::Attached, Input::Message(Detach) | Input::Order) => {
                (Self::Ending, Action::Detach)
            }
            (Self::Attached, Input::Message(_) | Input::Malformed) => {
                (Self::Ending, Action::RefuseAndDetach)
            }
            (Self::Attached, Input::Lost) => (Self::Ending, Action::HangUpAndDetach),
            (Self::Attached | Self::Ending, Input::Ended) => (Self::Ending, Action::Farewell),
            (Self::Attached, Input::Granted | Input::Home) => (self, Action::Nothing),

            (Self::Ending, Input::Lost) => (self, Action::HangUp),
            (Self::Ending, Input::Home) => (Self::Gone, Action::Forget),
            // What it says now has no effect any more.
            (
                Self::Ending,
                Input::Message(_) | Input::Malformed | Input::Granted | Input::Order,
            )
            | (Self::Gone, _) => (self, Action::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [Kind; 14] = [
        Kind::Attach,
        Kind::Claim,
        Kind::Release,
        Kind::ClaimRule,
        Kind::ReleaseRule,
        Kind::RuleClaimed,
        Kind::Query,
        Kind::Ask,
        Kind::Detach,
        Kind::Attached,
        Kind::Claimed,
        Kind::Text,
        Kind::Detached,
        Kind::Refused,
    ];

    #[test]
    fn each_message_is_legal_in_its_states_only() {
        // Written as a table of its own, from the protocol's text.
        let legal = |state, kind| match kind {
            Kind::Attach => state == State::Connected,
            Kind::Query | Kind::Ask => state == State::Connected || state == State::Attached,
            Kind::Claim | Kind::Release | Kind::ClaimRule | Kind::ReleaseRule | Kind::Detach => {
                state == State::Attached
            }
            _ => false,
        };
        for state in [State::Connected, State::Attached] {
            for kind in KINDS {
                let (next, action) = state.on(Input::Message(kind));
                let refused = matches!(action, Action::Refuse | Action::RefuseAndDetach);
                assert_eq!(!refused, legal(state, kind), "{state:?} {kind:?}");
                assert!(!refused || next != State::Attached, "a violation ends it");
            }
        }
    }

    #[test]
    fn nothing_is_done_for_what_is_gone() {
        for input in [Input::Malformed, Input::Granted, Input::Lost, Input::Order, Input::Ended] {
            assert_eq!(State::Gone.on(input), (State::Gone, Action::Nothing));
        }
    }

    /// What an outsider does; the rest follows from what is asked of the worker.
    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            4 => prop::sample::select(KINDS.to_vec()).prop_map(Input::Message),
            1 => Just(Input::Malformed),
            1 => Just(Input::Lost),
            1 => Just(Input::Order),
            2 => Just(Input::Ended),
            2 => Just(Input::Home),
        ]
    }

    /// The rest of the daemon, as simple as it can be.
    #[derive(Default)]
    struct World {
        attached: u32,
        detached: u32,
        farewells: u32,
        forgotten: u32,
        hung_up: bool,
        /// The worker runs the session; it has ended it; its slots are home.
        running: bool,
        ended: bool,
        home: bool,
    }

    proptest! {
        /// Any inputs in any order: one attach, one detach, one farewell, one end, each after the
        /// other, and always a way to the end.
        #[test]
        fn a_session_is_begun_and_ended_once(inputs in prop::collection::vec(input(), 1..60)) {
            let (mut state, mut world) = (State::Connected, World::default());
            let finish = [Input::Lost, Input::Ended, Input::Home];
            for input in inputs.into_iter().chain(finish) {
                // The worker reports what happened to it, once each and in order.
                match input {
                    Input::Ended if world.running => (world.running, world.ended) = (false, true),
                    Input::Home if world.ended && !world.home => world.home = true,
                    Input::Ended | Input::Home => continue,
                    // Nothing can arrive on a connection that is closed.
                    Input::Message(_) | Input::Malformed | Input::Lost if world.hung_up => continue,
                    _ => {}
                }
                let (next, action) = state.on(input);
                state = next;
                match action {
                    Action::Attach => {
                        world.attached += 1;
                        world.running = true;
                        state = state.on(Input::Granted).0;
                        prop_assert_eq!(state, State::Attached);
                    }
                    Action::Answer | Action::Nothing => {}
                    Action::Refuse | Action::HangUp => world.hung_up = true,
                    Action::RefuseAndDetach | Action::HangUpAndDetach => {
                        world.hung_up = true;
                        world.detached += 1;
                    }
                    Action::Detach => world.detached += 1,
                    Action::Farewell => {
                        world.farewells += 1;
                        world.hung_up = true;
                    }
                    Action::Forget => world.forgotten += 1,
                }
                prop_assert!(world.attached <= 1 && world.detached <= 1);
                prop_assert!(world.detached == 0 || world.attached == 1);
            }
            // However it went: it is over, and everything that was begun was ended once.
            prop_assert_eq!(state, State::Gone);
            prop_assert_eq!(world.farewells, world.attached);
            prop_assert_eq!(world.forgotten, world.attached);
            prop_assert!(world.hung_up && !world.running);
        }
    }
}
