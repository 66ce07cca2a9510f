//! DHCPv6 (RFC 8415): four bytes, then a list of options. smoltcp does not implement it.
//!
//! Stateful clients get only their address this way. The prefix of the link and a router come from router
//! advertisements (RFC 8415 has no option for either), which the switch does not send.

use core::net::IpAddr;

use super::{Asker, Judged, LEASE, Message};
use crate::limits::DHCP_DNS_MAX;
use crate::wire::ip::Ip;
use crate::wire::l4;

/// Maximum length of a client's DUID (RFC 8415 §11.1).
const DUID_LEN_MAX: usize = 130;
/// Maximum number of options that are read.
const OPTIONS_MAX: usize = 64;

/// Message types (RFC 8415 §7.3).
mod message {
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const INFORMATION_REQUEST: u8 = 11;
}

/// Options (RFC 8415 §21, RFC 3646).
mod option {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_ADDRESS: u16 = 5;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const DNS: u16 = 23;
}

impl Asker<'_> {
    /// Judges a DHCPv6 message. `None`: malformed.
    pub(super) fn v6(&self, text: &[u8]) -> Option<Judged> {
        let (&[kind, a, b, c], options) = text.split_first_chunk()?;
        let q = Question::read(options)?;
        let duid = self.duid();
        if self.h.sport != l4::DHCP6_CLIENT_PORT || !self.h.src.is_host() {
            return None;
        }
        if q.server.is_some_and(|server| server != duid) {
            return Some(Judged::Elsewhere);
        }
        // Which messages need which options: RFC 8415 §16.
        let answer = match kind {
            message::SOLICIT if !q.rapid => message::ADVERTISE,
            message::REQUEST | message::RENEW | message::RELEASE | message::DECLINE if q.server.is_none() => {
                return None;
            }
            message::SOLICIT..=message::REBIND if kind != message::ADVERTISE => message::REPLY,
            // A release or a decline is acknowledged. The binding stays.
            message::RELEASE | message::DECLINE | message::INFORMATION_REQUEST => message::REPLY,
            _ => return None,
        };
        if q.client.is_none() && kind != message::INFORMATION_REQUEST {
            return None;
        }
        let mut text = Message::new();
        text.try_extend_from_slice(&[answer, a, b, c]).ok()?;
        if let Some(client) = q.client {
            put(&mut text, option::CLIENT_ID, &[client])?;
        }
        put(&mut text, option::SERVER_ID, &[&duid])?;
        match kind {
            // Confirm asks only whether the link is still the same (§18.3.3).
            message::CONFIRM | message::RELEASE | message::DECLINE => {
                put(&mut text, option::STATUS, &[&[0, 0]])?
            }
            message::INFORMATION_REQUEST => {}
            _ => {
                if let Some(iaid) = q.iaid {
                    self.put_address(&mut text, iaid)?;
                }
            }
        }
        if kind == message::SOLICIT && q.rapid {
            put(&mut text, option::RAPID_COMMIT, &[])?;
        }
        let mut dns = arrayvec::ArrayVec::<u8, { DHCP_DNS_MAX * 16 }>::new();
        for ip in &self.dhcp.dns {
            if let IpAddr::V6(v6) = ip
                && dns.remaining_capacity() > 0
            {
                dns.try_extend_from_slice(&v6.octets()).ok()?;
            }
        }
        if !dns.is_empty() {
            put(&mut text, option::DNS, &[&dns])?;
        }
        Some(Judged::Answer {
            // The link-local address of the virtual gateway's MAC. No other station has it.
            from: Ip::v6(self.network.config.router_mac.link_local()),
            to: self.h.src,
            ports: (l4::DHCP6_SERVER_PORT, l4::DHCP6_CLIENT_PORT),
            message: text,
            boots: false,
        })
    }

    /// Writes the address, in its identity association.
    fn put_address(&self, text: &mut Message, iaid: [u8; 4]) -> Option<()> {
        let [code, len] = [option::IA_ADDRESS, 24].map(u16::to_be_bytes);
        let (renew, rebind, lease) =
            ((LEASE / 2).to_be_bytes(), (LEASE / 8 * 7).to_be_bytes(), LEASE.to_be_bytes());
        let address = self.address.v6_bytes();
        put(text, option::IA_NA, &[&iaid, &renew, &rebind, &code, &len, &address, &lease, &lease])
    }

    /// The switch's DUID, made from its link-layer address (RFC 8415 §11.4): the same on every rVM.
    fn duid(&self) -> [u8; 10] {
        let m = self.network.config.router_mac.0;
        [0, 3, 0, 1, m[0], m[1], m[2], m[3], m[4], m[5]]
    }
}

/// Appends an option. Its value is the concatenation of `parts`.
fn put(text: &mut Message, code: u16, parts: &[&[u8]]) -> Option<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    text.try_extend_from_slice(&code.to_be_bytes()).ok()?;
    text.try_extend_from_slice(&u16::try_from(len).ok()?.to_be_bytes()).ok()?;
    parts.iter().try_for_each(|part| text.try_extend_from_slice(part).ok())
}

/// The options of a question that the answer depends on.
#[derive(Default)]
struct Question<'a> {
    client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
    iaid: Option<[u8; 4]>,
    rapid: bool,
}

impl<'a> Question<'a> {
    /// Reads the options. `None` when the list does not end where the message does.
    fn read(mut rest: &'a [u8]) -> Option<Self> {
        let mut question = Self::default();
        for _ in 0..OPTIONS_MAX {
            if rest.is_empty() {
                return Some(question);
            }
            let (&[a, b, c, d], after) = rest.split_first_chunk()?;
            let (value, after) = after.split_at_checked(usize::from(u16::from_be_bytes([c, d])))?;
            rest = after;
            match u16::from_be_bytes([a, b]) {
                option::CLIENT_ID if value.len() <= DUID_LEN_MAX => question.client = Some(value),
                option::CLIENT_ID => return None,
                option::SERVER_ID => question.server = Some(value),
                // A port has one address of a family to give, so the first association gets it.
                option::IA_NA if question.iaid.is_none() => {
                    question.iaid = Some(*value.first_chunk::<12>()?.first_chunk()?);
                }
                option::RAPID_COMMIT => question.rapid = true,
                _ => {}
            }
        }
        None
    }
}
