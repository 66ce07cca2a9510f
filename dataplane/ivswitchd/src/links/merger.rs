//! Has the kernel coalesce incoming tunnel packets before our packet sockets and tc see them.
//!
//! GRO coalesces the TCP segments inside tunnel packets if a vxlan device holds their UDP port. Ours exists
//! only for that: it filters by VNI (`vnifilter`) and has no VNI, so it receives nothing from any peer. It
//! goes with the daemon; a new daemon takes over the device that a killed one left.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};

use crate::netlink::Requester;

/// How the name of our device begins; its UDP port follows.
const NAME: &str = "ivs-gro";

const ALIAS: &str = "ivswitch: has tunnel packets merged (GRO), receives none";

/// A vxlan device that exists as long as this value lives.
pub struct Merger {
    requester: Requester,
    name: String,
}

impl Merger {
    /// Makes a device that holds this port on all addresses.
    ///
    /// # Errors
    /// The kernel lacks this kind of device (Linux 5.18 has it), or the port is held.
    pub fn hold(port: u16) -> io::Result<Self> {
        let mut merger = Self { requester: Requester::open()?, name: format!("{NAME}{port}") };
        if merger.is_left_over() {
            merger.delete()?;
        }
        let options =
            vec![InfoVxlan::CollectMetadata(true), InfoVxlan::Vnifilter(true), InfoVxlan::Port(port)];
        let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(options))];
        let create = RouteNetlinkMessage::NewLink(merger.message(vec![LinkAttribute::LinkInfo(info)]));
        if let Err(error) = merger.requester.change(create, NLM_F_CREATE | NLM_F_EXCL) {
            // The device does not exist, or is not ours to delete.
            merger.name.clear();
            return Err(error);
        }
        merger.set(vec![LinkAttribute::IfAlias(ALIAS.to_owned())])?;
        let silent = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        // A kernel without IPv6 refuses, and has nothing to silence.
        let _ = merger.set(vec![LinkAttribute::AfSpecUnspec(vec![silent])]);
        let mut up = merger.message(Vec::new());
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        // In this step the kernel takes the port.
        merger.requester.change(RouteNetlinkMessage::SetLink(up), 0)?;
        Ok(merger)
    }

    fn is_left_over(&mut self) -> bool {
        let ours =
            |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfAlias(alias) if alias == ALIAS);
        let asked = RouteNetlinkMessage::GetLink(self.message(Vec::new()));
        let found = self.requester.get(asked);
        matches!(found, Ok(Some(RouteNetlinkMessage::NewLink(m))) if m.attributes.iter().any(ours))
    }

    fn set(&mut self, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let message = self.message(attributes);
        self.requester.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    fn delete(&mut self) -> io::Result<()> {
        let message = self.message(Vec::new());
        self.requester.change(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// A message about the device, which it finds by name.
    fn message(&self, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes = attributes;
        message.attributes.push(LinkAttribute::IfName(self.name.clone()));
        message
    }
}

/// Whether this name is that of our device. The alias does not help here: the kernel announces the device before it has
/// one.
pub fn is_ours(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|port| port.parse::<u16>().is_ok())
}

impl Drop for Merger {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // The operator may have deleted it by hand.
            let _ = self.delete();
        }
    }
}
