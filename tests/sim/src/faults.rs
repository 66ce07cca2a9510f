//! What goes wrong in a world, on purpose.

use std::net::IpAddr;

use crate::world::{LinkId, NodeId, SEC, World};

impl World {
    /// The cable is out.
    pub fn link_down(&mut self, link: LinkId) {
        self.link(link).up = false;
    }

    /// The cable is back.
    pub fn link_up(&mut self, link: LinkId) {
        self.link(link).up = true;
    }

    /// SIGKILL: the rVM's worker and agent are gone with all they knew.
    pub fn kill(&mut self, rvm: NodeId) {
        self.r(rvm).kill();
    }

    /// SIGKILL and a new start from the configuration file.
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

    /// It comes back as a new interface of the same name.
    pub fn return_interface(&mut self, rvm: NodeId, name: &str) {
        let now = self.now_ns;
        self.r(rvm).return_interface(now, name);
        self.nudge(rvm);
    }

    /// The clocks leap: everything and everybody stood still for so long, frames under way included, as when a machine
    /// is suspended or a hypervisor pauses its guests.
    pub fn suspend(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    /// Two rVMs cannot reach one another through the underlay.
    pub fn cut(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.r(a).nic, self.r(b).nic);
        self.cloud().cut.insert((a.min(b), a.max(b)));
    }

    /// They can again.
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

    /// Lets everything settle: caches age, neighbours are asked for again.
    pub fn settle(&mut self) {
        self.run_for(3 * SEC);
    }
}
