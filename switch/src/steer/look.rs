//! What is in a table, for people who ask: nothing here marks, learns or forgets anything.

use super::{PrefixRule, Stage, Table};
use crate::classify::Flow;
use crate::time::Time;
use crate::verdict::{Receiver, ReceiverCode};

/// What each step of a lookup finds for one flow, whether or not a step before it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Who has the exact flow, and when it was last used if it was learned.
    pub(crate) exact: Option<(Receiver, Option<Time>)>,
    /// For whom another worker has learned it.
    pub(crate) book: Option<Receiver>,
    /// Whether the destination is an address of the interface.
    pub(crate) is_local: bool,
    /// Who has the port there for this remote end; the outer `None`: the port is not known, or the protocol has
    /// none.
    pub(crate) listener: Option<Option<Receiver>>,
    /// Who has the whole protocol there, of those that have no ports.
    pub(crate) protocol: Option<Receiver>,
    /// Whether there are rules for some remote ends at that port, or of that protocol.
    pub(crate) has_sources: bool,
    /// Whether it is one of a group that has it.
    pub(crate) is_spread: bool,
    /// Whose the address is alone.
    pub(crate) owner: Option<Receiver>,
    /// Who gets what no listener claims at an address that is shared.
    pub(crate) shared: Option<Receiver>,
    /// The longest prefix of the address with a claim of the protocol, or of all, and whose it is.
    pub(crate) prefix: Option<(PrefixRule, Receiver)>,
    /// Who gets what is for no local address.
    pub(crate) default: Option<Receiver>,
}

/// A flow that is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowSeen {
    /// As its frames arrive.
    pub(crate) flow: Flow,
    /// Whose it is.
    pub(crate) receiver: Receiver,
    /// How long ago it was last used; `None` for rules, which do not age.
    pub(crate) idle: Option<core::time::Duration>,
    /// How far it has come; `None` for rules.
    pub(crate) stage: Option<Stage>,
}

impl Table {
    /// What each step of a lookup would find.
    pub(crate) fn look(&self, flow: &Flow) -> Look {
        let local = self.local(flow.destination);
        let has_port = flow.ports_known && flow.protocol.has_ports();
        let code = local.map_or(ReceiverCode::NONE, |local| local.code(flow));
        let has_sources = code == ReceiverCode::SOURCES;
        let found = if has_sources { self.look_again(flow) } else { code.receiver() };
        Look {
            exact: self.exact.peek(flow),
            book: self.shared.as_ref().and_then(|shared| shared.get(flow)),
            is_local: local.is_some(),
            listener: local.filter(|_| has_port).map(|_| found),
            protocol: found.filter(|_| !has_port),
            has_sources,
            is_spread: has_sources && self.is_spread(flow),
            owner: local.and_then(|local| local.owner),
            shared: local.and_then(|local| local.shared.flatten()),
            prefix: self.prefix_of(flow).filter(|_| local.is_none()),
            default: self.default,
        }
    }

    /// At most `most` of the flows in the table, in no order.
    pub(crate) fn flows_seen(&self, most: usize, now: Time) -> Vec<FlowSeen> {
        let seen = self.exact.entries().map(|(flow, receiver, used)| FlowSeen {
            flow,
            receiver,
            idle: used.map(|(used, _)| now.since(used)),
            stage: used.map(|(_, stage)| stage),
        });
        seen.take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Address, Protocol};
    use usnet_shmring::ledger::SessionId;

    fn flow(source_port: u16, destination: [u8; 4], destination_port: u16) -> Flow {
        Flow {
            source: Address::v4([192, 0, 2, 7]),
            destination: Address::v4(destination),
            protocol: Protocol::TCP,
            source_port,
            destination_port,
            ports_known: true,
        }
    }

    #[test]
    fn looking_at_a_learned_flow_does_not_keep_it_fresh() {
        let mut table = Table::new(None, 1);
        table.add_address(Address::v4([10, 0, 0, 1]), Some(Receiver::Host));
        let (one, client) = (flow(5, [10, 0, 0, 1], 80), Receiver::Client(SessionId(3)));
        table.learn(one, client, Time(7)).unwrap();
        for _ in 0..2 {
            assert_eq!(table.look(&one).exact, Some((client, Some(Time(7)))));
        }
        let [seen] = table.flows_seen(9, Time(10))[..] else { panic!() };
        assert_eq!((seen.flow, seen.receiver, seen.idle.unwrap().as_nanos()), (one, client, 3));
        assert_eq!(table.flows_seen(0, Time(10)), []);
    }

    #[test]
    fn a_look_names_what_every_step_would_find() {
        let (host, client) = (Receiver::Host, Receiver::Client(SessionId(3)));
        let mut table = Table::new(Some(host), 1);
        table.add_address(Address::v4([10, 0, 0, 1]), Some(host));
        table.own_address(Address::v4([10, 0, 0, 2]), client);
        table.set_listener(Address::v4([10, 0, 0, 1]), Protocol::TCP, 80, 1, Some(client));
        let look = table.look(&flow(5, [10, 0, 0, 1], 80));
        assert_eq!(
            (look.listener, look.owner, look.shared),
            (Some(Some(client)), None, Some(host))
        );
        let look = table.look(&flow(5, [10, 0, 0, 2], 80));
        assert_eq!((look.listener, look.owner, look.shared), (Some(None), Some(client), None));
        let look = table.look(&flow(5, [10, 0, 0, 3], 80));
        assert_eq!((look.is_local, look.listener, look.default), (false, None, Some(host)));
        assert_eq!((look.exact, look.book), (None, None));
    }
}
