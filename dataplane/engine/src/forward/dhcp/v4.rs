//! DHCPv4 (RFC 2131). smoltcp reads and writes the messages. The options (RFC 2132) are read here one by one,
//! since a client identifier may have any content and must return unchanged (RFC 6842).

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{
    DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress,
};

use super::{Asker, Judged, LEASE, MESSAGE_LEN_MAX, Message};
use crate::limits::{DHCP_BOOT_FILE_LEN_MAX, DHCP_DNS_MAX};
use crate::wire::ip::Ip;
use crate::wire::l4;

const REQUESTED_IP: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER_ID: u8 = 54;
const VENDOR_CLASS: u8 = 60;
const CLIENT_ID: u8 = 61;
const INTERFACE_MTU: u8 = 26;
/// Start of the vendor class of firmware that looks for a boot server (PXE 2.1 §2.4.2), or for a URL to boot
/// from (UEFI 2.10 §24.7.3). The latter expects its own class in the answer.
const PXE_CLIENT: &[u8] = b"PXEClient";
const HTTP_CLIENT: &[u8] = b"HTTPClient";
/// Offset of the boot file's name.
const BOOT_FILE_AT: usize = 108;
/// Magic number in front of the options (RFC 2131 §3).
const MAGIC: u32 = 0x6382_5363;
/// Maximum length of a client identifier: a DUID (RFC 8415 §11.1) with the prefix that RFC 4361 adds.
const CLIENT_ID_MAX: usize = 130 + 5;
/// Length of a message without a client identifier: at least BOOTP's 300 bytes, which old clients require.
const PLAIN_LEN: usize = 320;
/// The server's address where the network has no gateway. No other station on a link has it (RFC 3927).
const NO_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 76, 67);

/// The options of a question that the answer depends on.
#[derive(Default)]
struct Question<'a> {
    kind: Option<DhcpMessageType>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client: Option<&'a [u8]>,
    class: &'a [u8],
}

impl Asker<'_> {
    /// Judges a DHCPv4 message. `None`: malformed.
    pub(super) fn v4(&self, message: &[u8]) -> Option<Judged> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let mac = EthernetAddress(self.h.eth_src.0);
        if packet.opcode() != DhcpOpCode::Request
            || packet.magic_number() != MAGIC
            || packet.hardware_len() != 6
            || packet.client_hardware_address() != mac
            || !packet.relay_agent_ip().is_unspecified()
            || self.h.sport != l4::DHCP_CLIENT_PORT
        {
            return None;
        }
        let mut q = Question::default();
        for option in packet.options() {
            let address = || option.data.try_into().ok().map(|bytes: [u8; 4]| Ipv4Addr::from(bytes));
            match option.kind {
                MESSAGE_TYPE => q.kind = Some(DhcpMessageType::from(*option.data.first()?)),
                REQUESTED_IP => q.requested = Some(address()?),
                SERVER_ID => q.server = Some(address()?),
                CLIENT_ID if option.data.len() <= CLIENT_ID_MAX => q.client = Some(option.data),
                CLIENT_ID => return None,
                VENDOR_CLASS => q.class = option.data,
                _ => {}
            }
        }
        let own = Ipv4Addr::from(self.address.v4_bytes());
        let router = self.network.gateways.iter().find(|g| g.is_v4()).map(|g| Ipv4Addr::from(g.v4_bytes()));
        let server = router.unwrap_or(NO_GATEWAY);
        let has = packet.client_ip();
        let asked = q.kind?;
        let kind = match asked {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request if q.server.is_some_and(|s| s != server) => {
                return Some(Judged::Elsewhere);
            }
            DhcpMessageType::Request if q.requested.unwrap_or(has) == own => DhcpMessageType::Ack,
            DhcpMessageType::Request => DhcpMessageType::Nak,
            DhcpMessageType::Inform => DhcpMessageType::Ack,
            DhcpMessageType::Release | DhcpMessageType::Decline => return Some(Judged::Consume),
            _ => return None,
        };
        let broadcast = packet.flags().contains(DhcpFlags::BROADCAST);
        let (granted, informs) = (kind != DhcpMessageType::Nak, asked == DhcpMessageType::Inform);
        let lease = (granted && !informs).then_some(LEASE);
        let mtu = self.mtu.to_be_bytes();
        let mtu = granted.then_some(DhcpOption { kind: INTERFACE_MTU, data: &mtu });
        let client = q.client.map(|data| DhcpOption { kind: CLIENT_ID, data });
        let boot = self.dhcp.boot.as_ref().filter(|_| granted);
        let boots = [PXE_CLIENT, HTTP_CLIENT].iter().any(|class| q.class.starts_with(class))
            && granted
            && self.dhcp.boot.is_none();
        let by_http = boot.is_some() && q.class.starts_with(HTTP_CLIENT);
        let class = by_http.then_some(DhcpOption { kind: VENDOR_CLASS, data: HTTP_CLIENT });
        let options: arrayvec::ArrayVec<_, 3> = client.into_iter().chain(mtu).chain(class).collect();
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.len)).unwrap_or(0);
        let has_dns = self.dhcp.dns.iter().any(IpAddr::is_ipv4);
        let dns = self.dhcp.dns.iter().filter_map(|ip| match ip {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let answer = DhcpRepr {
            message_type: kind,
            transaction_id: packet.transaction_id(),
            secs: 0,
            client_hardware_address: mac,
            client_ip: if granted { has } else { Ipv4Addr::UNSPECIFIED },
            your_ip: if lease.is_some() { own } else { Ipv4Addr::UNSPECIFIED },
            server_ip: boot.and_then(|boot| boot.server).unwrap_or(Ipv4Addr::UNSPECIFIED),
            router: router.filter(|_| granted),
            subnet_mask: granted.then_some(Ipv4Addr::from(mask)),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(server),
            parameter_request_list: None,
            dns_servers: (granted && has_dns).then(|| dns.take(DHCP_DNS_MAX).collect()),
            max_size: None,
            lease_duration: lease,
            // smoltcp does not write these. The client's defaults are the values that we would send (RFC 2131
            // §4.4.5).
            renew_duration: None,
            rebind_duration: None,
            additional_options: &options,
        };
        let mut text = [0; MESSAGE_LEN_MAX];
        let len = (PLAIN_LEN + q.client.map_or(0, <[u8]>::len)).min(MESSAGE_LEN_MAX);
        let text = text.get_mut(..len)?;
        answer.emit(&mut DhcpPacket::new_unchecked(&mut *text)).ok()?;
        if let Some(boot) = boot {
            let file = &boot.file[..boot.file.len().min(DHCP_BOOT_FILE_LEN_MAX)];
            text.get_mut(BOOT_FILE_AT..BOOT_FILE_AT + file.len())?.copy_from_slice(file);
        }
        // Where an answer goes: RFC 2131 §4.1.
        let to = if !has.is_unspecified() && granted {
            has
        } else if broadcast || !granted {
            Ipv4Addr::BROADCAST
        } else {
            own
        };
        Some(Judged::Answer {
            from: Ip::v4(server.octets()),
            to: Ip::v4(to.octets()),
            ports: (l4::DHCP_SERVER_PORT, l4::DHCP_CLIENT_PORT),
            message: Message::try_from(&*text).ok()?,
            boots,
        })
    }
}
