//! Faults that a scenario causes on purpose.

use std::net::IpAddr;

use crate::world::{LinkId, NodeId, SEC, World};

impl World {
    /// Unplugs the cable.
    pub fn link_down(&mut self, link: LinkId) {
        self.link(link).up = false;
    }

    /// Plugs the cable in again.
    pub fn link_up(&mut self, link: LinkId) {
        self.link(link).up = true;
    }

    /// SIGKILL: the rVM's worker and agent lose all their state.
    pub fn kill(&mut self, rvm: NodeId) {
        self.r(rvm).kill();
    }

    /// SIGKILL, then a new start from the configuration file.
    pub fn restart(&mut self, rvm: NodeId) {
        self.kill(rvm);
        self.start(rvm);
    }

    /// An interface of the rVM disappears.
    pub fn remove_interface(&mut self, rvm: NodeId, name: &str) {
        let now = self.now_ns;
        self.r(rvm).remove_interface(now, name);
        self.nudge(rvm);
    }

    /// The interface comes back as a new one of the same name.
    pub fn return_interface(&mut self, rvm: NodeId, name: &str) {
        let now = self.now_ns;
        self.r(rvm).return_interface(now, name);
        self.nudge(rvm);
    }

    /// The clocks leap by `ns`: everything stood still, frames in flight included, as when a machine is suspended or
    /// a hypervisor pauses its guests.
    pub fn suspend(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    /// Stops the underlay from carrying packets between two rVMs.
    pub fn cut(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.r(a).nic, self.r(b).nic);
        self.cloud().cut.insert((a.min(b), a.max(b)));
    }

    /// Lets the underlay carry packets between them again.
    pub fn heal(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.r(a).nic, self.r(b).nic);
        self.cloud().cut.remove(&(a.min(b), a.max(b)));
    }

    /// The provider gives the rVM's NIC another address.
    ///
    /// # Panics
    /// When an address cannot be read.
    pub fn readdress(&mut self, rvm: NodeId, old: &str, new: &str) {
        let (old, new): (IpAddr, IpAddr) =
            (old.parse().expect("an IP address"), new.parse().expect("an IP address"));
        let (nic, now) = (self.r(rvm).nic, self.now_ns);
        for a in self.cloud().nics[nic].addresses.iter_mut().filter(|a| **a == old) {
            *a = new;
        }
        for m in self.cloud().nics[nic].public.iter_mut().filter(|m| m.0 == old) {
            m.0 = new;
        }
        let prefixes = self.cloud().prefixes(nic);
        self.r(rvm).change_interface(now, "eth0", |f| f.addresses = prefixes);
        self.nudge(rvm);
    }

    /// Waits until caches have aged and neighbours have been resolved again.
    pub fn settle(&mut self) {
        self.run_for(3 * SEC);
    }
}
