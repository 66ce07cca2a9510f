//! DHCP, DHCPv6 and PXE: a guest may ask for itself. It may not answer, or ask on behalf of others.

use super::Guard;
use crate::counters::DropReason;
use crate::forward::parse::Part;
use crate::wire::ip::Ip;
use crate::wire::l4;
use crate::wire::mac::MacAddr;

/// `op` of a message to a server and to a client (RFC 2131 §2).
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
/// Length of a message without options, in bytes.
const BOOTP_LEN: usize = 236;
/// Hardware type and address length of Ethernet.
const ETHERNET: [u8; 2] = [1, 6];

/// Whether a guard reads the payload of a guest's UDP packet over IPv4 between these ports. Verdicts about
/// such packets must not be cached.
#[inline]
#[must_use]
pub const fn reads_payload(sport: u16, dport: u16) -> bool {
    sport == l4::DHCP_SERVER_PORT
        || matches!(dport, l4::DHCP_SERVER_PORT | l4::DHCP_CLIENT_PORT | l4::PXE_PORT)
}

impl Guard<'_> {
    /// A client recognises an answer by its destination port, and does not look at the source port. Servers
    /// and relays receive at port 67, and no other station sends from there. A socket of DHCPv6 may take IPv4
    /// too (RFC 3493 §3.7).
    pub(super) fn dhcp(&self) -> Result<(), DropReason> {
        match (self.h.sport, self.h.dport) {
            (l4::DHCP_SERVER_PORT | l4::DHCP6_SERVER_PORT, _)
            | (_, l4::DHCP_CLIENT_PORT | l4::DHCP6_CLIENT_PORT) => Err(DropReason::DhcpServerGuard),
            (_, l4::DHCP6_SERVER_PORT) => Err(DropReason::DhcpMalformed),
            (_, l4::DHCP_SERVER_PORT) => self.dhcp_question(),
            (_, l4::PXE_PORT) => self.pxe(),
            _ => Ok(()),
        }
    }

    /// Permits a question for the guest itself. A relay would pass an answer on to its client. A question by
    /// way of a relay, or with another hardware or IP address, takes or releases another guest's address.
    fn dhcp_question(&self) -> Result<(), DropReason> {
        if self.h.part != Part::Whole || self.is_super_frame() {
            return Err(DropReason::DhcpMalformed);
        }
        let message = self.udp_payload().first_chunk::<BOOTP_LEN>().ok_or(DropReason::DhcpMalformed)?;
        let address = |at: usize| Ip::v4([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        let (has, relay) = (address(12), address(24));
        if message[0] == BOOT_REPLY {
            return Err(DropReason::DhcpServerGuard);
        }
        let mac = MacAddr([message[28], message[29], message[30], message[31], message[32], message[33]]);
        let own = message[0] == BOOT_REQUEST
            && message[1..3] == ETHERNET
            && self.port.binds_mac(mac)
            && relay.is_unspecified()
            && (has.is_unspecified() || self.owns(has));
        if own { Ok(()) } else { Err(DropReason::DhcpMalformed) }
    }

    /// PXE firmware asks a boot server at port 4011, and takes its answer at 4011 or 68. Port 4011 is an
    /// ordinary port for other programs, so the guard drops only BOOTP replies.
    fn pxe(&self) -> Result<(), DropReason> {
        if self.h.part != Part::Whole {
            return Err(DropReason::FragmentGuard);
        }
        let message = self.udp_payload();
        let answers = message.first() == Some(&BOOT_REPLY) && message.len() >= BOOTP_LEN;
        if answers || self.is_super_frame() { Err(DropReason::DhcpServerGuard) } else { Ok(()) }
    }

    /// The same for DHCPv6 (RFC 8415 §7.2, §7.3): drops messages of servers and relays, and truncated ones.
    pub(super) fn dhcp6(&self, fragmented: bool) -> Result<(), DropReason> {
        match (self.h.sport, self.h.dport) {
            (l4::DHCP6_SERVER_PORT, _) | (_, l4::DHCP6_CLIENT_PORT) => Err(DropReason::DhcpServerGuard),
            (_, l4::DHCP6_SERVER_PORT) if fragmented || self.is_super_frame() => {
                Err(DropReason::DhcpMalformed)
            }
            (_, l4::DHCP6_SERVER_PORT) => match self.udp_payload().first() {
                // Solicit, request, confirm, renew, rebind, release, decline, information request.
                Some(1 | 3..=6 | 8 | 9 | 11) => Ok(()),
                // Advertise, reply, reconfigure, relay-forward, relay-reply.
                Some(2 | 7 | 10 | 12 | 13) => Err(DropReason::DhcpServerGuard),
                _ => Err(DropReason::DhcpMalformed),
            },
            _ => Ok(()),
        }
    }

    fn udp_payload(&self) -> &[u8] {
        self.h.segment(self.bytes).get(l4::UDP_HEADER_LEN..).unwrap_or_default()
    }
}
