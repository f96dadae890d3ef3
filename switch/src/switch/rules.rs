//! Rules with a remote end, a priority or a group, and prefixes of addresses: given and taken by the control path.

use super::{Switch, SwitchError};
use crate::session::InterfaceId;
use crate::steer::{PrefixRule, Rule, RuleRefusal, Table};
use crate::verdict::Receiver;
use usnet_shmring::ledger::SessionId;

impl Switch {
    /// Gives a rule to a receiver that is there.
    ///
    /// # Errors
    /// [`SwitchError`], and nothing has changed.
    pub fn give_rule(
        &mut self,
        interface: InterfaceId,
        rule: &Rule,
        to: Receiver,
    ) -> Result<(), SwitchError> {
        // A rule for a number that is not attached would be inherited by whoever gets it next.
        if let Receiver::Client(id) = to
            && !self.clients_of(interface)?.contains(&id)
        {
            return Err(SwitchError::NoSession(id));
        }
        let address = rule.address.to_ip();
        self.table_of(interface)?.give(rule, to).map_err(|refusal| match refusal {
            RuleRefusal::NotClaimable => {
                SwitchError::NotClaimable { address, protocol: rule.protocol.0 }
            }
            RuleRefusal::Taken => SwitchError::RuleTaken { address },
            RuleRefusal::Full => SwitchError::RulesFull,
        })
    }

    /// Takes a rule back, if the receiver has it.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`]
    pub fn take_rule(
        &mut self,
        interface: InterfaceId,
        rule: &Rule,
        from: Receiver,
    ) -> Result<(), SwitchError> {
        self.table_of(interface)?.take(rule, from);
        Ok(())
    }

    /// Gives all addresses with a prefix to a client that is there.
    ///
    /// # Errors
    /// [`SwitchError`], and nothing has changed.
    pub fn give_prefix(
        &mut self,
        interface: InterfaceId,
        rule: PrefixRule,
        to: SessionId,
    ) -> Result<(), SwitchError> {
        if !self.clients_of(interface)?.contains(&to) {
            return Err(SwitchError::NoSession(to));
        }
        let given = self.table_of(interface)?.give_prefix(rule, Receiver::Client(to));
        given.map_err(|_| SwitchError::NoPrefix { rule })
    }

    /// Takes them back, if the client has them.
    ///
    /// # Errors
    /// [`SwitchError::NoInterface`]
    pub fn take_prefix(
        &mut self,
        interface: InterfaceId,
        rule: PrefixRule,
        from: SessionId,
    ) -> Result<(), SwitchError> {
        self.table_of(interface)?.take_prefix(rule, Receiver::Client(from));
        Ok(())
    }

    fn table_of(&mut self, interface: InterfaceId) -> Result<&mut Table, SwitchError> {
        Ok(&mut self.interfaces.get_mut(interface)?.table)
    }

    fn clients_of(&self, interface: InterfaceId) -> Result<&[SessionId], SwitchError> {
        let place = self.interfaces.get(interface);
        place.map(|i| i.clients.as_slice()).ok_or(SwitchError::NoInterface(interface))
    }
}
