//! Builds frames. The values that the arguments leave open come from the configuration and from the switch's tables,
//! and are listed in the output.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ctl::api::{ConfigShown, FdbRow, NeighRow, Rows, Status};
use ctl::model::{Config, Mac, Port, PortRole};
use etherparse::{PacketBuilder, PacketBuilderStep, VlanId};
use serde_json::json;

use crate::client::Client;
use crate::output::Failure;

/// Hosts on the Internet, from the address ranges for documentation (RFC 5737 s.3, RFC 3849).
const INTERNET_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const INTERNET_HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));

/// The fields of the packet that a user may set.
#[derive(clap::Args, Debug)]
pub struct Header {
    /// Source address
    #[arg(long, value_name = "IP")]
    src: Option<IpAddr>,
    /// Source port
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    sport: u16,
    /// Destination port
    #[arg(long, value_name = "N", default_value_t = 80)]
    dport: u16,
    /// Source MAC address
    #[arg(long, value_name = "MAC")]
    src_mac: Option<Mac>,
    /// Destination MAC address
    #[arg(long, value_name = "MAC")]
    dst_mac: Option<Mac>,
    /// VLAN tag
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(0..4095))]
    vlan: Option<u16>,
    /// Hop limit
    #[arg(long, value_name = "N", default_value_t = 64)]
    ttl: u8,
    /// Bytes of payload
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=9000))]
    size: u16,
    /// The network, if the frame comes from a peer
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
}

/// The daemon's tables, as far as the frame needs them.
struct Known<'a> {
    client: &'a mut Client,
    status: Status,
    config: Config,
}

/// The place where the frame enters the switch.
enum From {
    Uplink,
    Port(Box<Port>),
    Peer(String, IpAddr),
}

/// Builds the frame. Returns its port, its bytes, and the assumptions.
pub fn make(
    client: &mut Client,
    from: &str,
    to: IpAddr,
    protocol: &str,
    header: &Header,
) -> Result<(String, Vec<u8>, Vec<String>), Failure> {
    let status: Status = client.call("status", json!({}))?;
    let shown: ConfigShown = client.call("config.show", json!({}))?;
    let config: Config = serde_json::from_value(shown.config).map_err(|_| {
        Failure::new(
            1,
            "trace",
            "the daemon's configuration is not understood",
            "ivctl and ivswitchd should be of the same version",
        )
    })?;
    let mut known = Known { client, status, config };
    let mut notes = Vec::new();
    let from = known.from(from)?;
    let network = known.network(&from, header)?;
    let src = known.source_ip(&from, to, header, &mut notes)?;
    if src.is_ipv4() != to.is_ipv4() {
        let why = format!("{src} and {to} are of different address families");
        return Err(Failure::new(2, "trace", why, "give --src an address of the same family"));
    }
    let src_mac = known.source_mac(&from, network.as_deref(), header, &mut notes)?;
    let dst_mac = if protocol == "arp" {
        header.dst_mac.map_or([0xff; 6], |Mac(mac)| mac.0)
    } else {
        known.destination_mac(&from, network.as_deref(), to, header, &mut notes)?
    };
    let mut bytes = packet(src_mac, dst_mac, src, to, protocol, header)?;
    let port = match &from {
        From::Uplink => "uplink".to_owned(),
        From::Port(port) => port.name.clone(),
        From::Peer(_, address) => {
            bytes = known.encapsulated(*address, network.as_deref().unwrap_or_default(), &bytes)?;
            "uplink".to_owned()
        }
    };
    Ok((port, bytes, notes))
}

impl Known<'_> {
    fn from(&self, name: &str) -> Result<From, Failure> {
        if name == "uplink" && self.config.uplink.is_some() {
            return Ok(From::Uplink);
        }
        if let Some(port) = self.config.port(name) {
            return Ok(From::Port(Box::new(port.clone())));
        }
        if let Some(peer) = self.config.peer(name) {
            return Ok(From::Peer(name.to_owned(), peer.address));
        }
        let names: Vec<&str> = self.status.ports.iter().map(|p| p.ifname.as_str()).collect();
        let peers = self.config.peer.iter().map(|p| p.name.as_str());
        let how = format!("--from one of {}", names.into_iter().chain(peers).collect::<Vec<_>>().join(", "));
        Err(Failure::new(3, format!("\"{name}\""), "there is no such port or peer", how))
    }

    fn network(&self, from: &From, header: &Header) -> Result<Option<String>, Failure> {
        let named = header.network.as_ref();
        if let Some(name) = named.filter(|name| self.config.network(name).is_none()) {
            let how = "`ivctl network list` shows them";
            return Err(Failure::new(3, format!("network \"{name}\""), "there is no such network", how));
        }
        match from {
            From::Uplink => Ok(None),
            From::Port(port) => Ok(Some(port.network.clone())),
            From::Peer(name, _) => {
                let row = self.status.peers.iter().find(|p| p.name == *name);
                let networks = row.map(|p| p.networks.as_slice()).unwrap_or_default();
                match (named, networks) {
                    (Some(name), _) | (None, [name]) => Ok(Some(name.clone())),
                    (None, several) => {
                        let why = format!("peer {name} takes part in {} networks", several.len());
                        let how = format!("select one with --network: {}", several.join(", "));
                        Err(Failure::new(2, "trace", why, how))
                    }
                }
            }
        }
    }

    fn source_ip(
        &self,
        from: &From,
        to: IpAddr,
        header: &Header,
        notes: &mut Vec<String>,
    ) -> Result<IpAddr, Failure> {
        if let Some(ip) = header.src {
            return Ok(ip);
        }
        if matches!(from, From::Uplink) {
            let ip = if to.is_ipv4() { INTERNET_HOST } else { INTERNET_HOST6 };
            notes.push(format!("source address {ip}, which stands for any host on the Internet"));
            return Ok(ip);
        }
        let known = match from {
            From::Port(port) => {
                let bound = port.ip.iter().map(|a| a.0.addr);
                let given = port.address.iter().map(ipnet::IpNet::addr);
                bound.chain(given).find(|ip| ip.is_ipv4() == to.is_ipv4())
            }
            From::Uplink | From::Peer(..) => None,
        };
        let ip = known.ok_or_else(|| {
            let why = "the sender of the packet is not known: no address is configured there";
            Failure::new(2, "trace", why, "give --src IP")
        })?;
        notes.push(format!("source address {ip}, which is configured there"));
        Ok(ip)
    }

    fn source_mac(
        &mut self,
        from: &From,
        network: Option<&str>,
        header: &Header,
        notes: &mut Vec<String>,
    ) -> Result<[u8; 6], Failure> {
        if let Some(Mac(mac)) = header.src_mac {
            return Ok(mac.0);
        }
        let which = match from {
            From::Uplink => {
                notes.push("source MAC of any neighbour: it does not matter there".to_owned());
                return Ok([2, 0, 0, 0, 0, 1]);
            }
            From::Port(port) if port.role == PortRole::Guest => {
                if let Some(Mac(mac)) = port.mac.first() {
                    notes.push(format!("source MAC {mac}, the guest's"));
                    return Ok(mac.0);
                }
                json!({ "port": port.name })
            }
            From::Port(port) if port.makes_door() => {
                let row = self.status.ports.iter().find(|row| row.ifname == port.name);
                let mac = row.and_then(|row| row.door_address.as_ref()?.parse::<Mac>().ok());
                let Some(Mac(mac)) = mac else {
                    return Err(Failure::new(
                        2,
                        "trace",
                        "the door's MAC address is not known",
                        "give --src-mac MAC",
                    ));
                };
                notes.push(format!("source MAC {mac}, the door's own"));
                return Ok(mac.0);
            }
            From::Port(port) => json!({ "port": port.name }),
            From::Peer(name, _) => json!({ "peer": name, "network": network }),
        };
        let rows: Rows<FdbRow> = self.client.call("fdb.list", which)?;
        let newest = rows.rows.iter().min_by_key(|row| row.used);
        let mac = newest.and_then(|row| row.mac.parse::<Mac>().ok()).ok_or_else(|| {
            let why = "the sender of the frame is not known: no station was seen there";
            Failure::new(2, "trace", why, "give --src-mac MAC")
        })?;
        notes.push(format!("source MAC {mac}, a station that was seen there"));
        Ok(mac.0.0)
    }

    fn destination_mac(
        &mut self,
        from: &From,
        network: Option<&str>,
        to: IpAddr,
        header: &Header,
        notes: &mut Vec<String>,
    ) -> Result<[u8; 6], Failure> {
        if let Some(Mac(mac)) = header.dst_mac {
            return Ok(mac.0);
        }
        if matches!(from, From::Uplink) {
            return self.uplink_mac();
        }
        if let Some(mac) = group_mac(to) {
            return Ok(mac);
        }
        let network = network.unwrap_or_default();
        let rows: Rows<NeighRow> = self.client.call("neigh.list", json!({ "network": network }))?;
        let neighbor = rows.rows.iter().find(|row| row.dst == to).and_then(|row| row.lladdr.clone());
        if let Some(mac) = neighbor.and_then(|mac| mac.parse::<Mac>().ok()) {
            notes.push(format!("destination MAC {mac}, with which {to} was seen"));
            return Ok(mac.0.0);
        }
        let row = self.status.networks.iter().find(|row| row.name == network);
        let gateway = row.filter(|row| row.gateway.iter().any(|ip| ip.is_ipv4() == to.is_ipv4()));
        if let Some(mac) = gateway.and_then(|row| row.router_mac.parse::<Mac>().ok()) {
            notes.push(format!("destination MAC {mac}, the virtual gateway's of {network}"));
            return Ok(mac.0.0);
        }
        let why = format!("the switch does not know the MAC address of {to} on network {network}");
        let how = format!(
            "give --dst-mac MAC (`ivctl fdb list --network {network}` lists them), or trace the question: arp"
        );
        Err(Failure::new(2, "trace", why, how))
    }

    fn uplink_mac(&self) -> Result<[u8; 6], Failure> {
        let row = self.status.ports.iter().find(|p| p.role == "uplink");
        let mac = row.and_then(|row| row.address.as_ref()).and_then(|mac| mac.parse::<Mac>().ok());
        mac.map(|mac| mac.0.0).ok_or_else(|| {
            Failure::new(1, "trace", "the uplink's interface is not there", "see `ivctl port show uplink`")
        })
    }

    /// The frame as a peer would send it.
    fn encapsulated(&self, peer: IpAddr, network: &str, inner: &[u8]) -> Result<Vec<u8>, Failure> {
        let vtep = self.status.vtep.ok_or_else(|| {
            Failure::new(1, "trace", "this rVM has no VTEP address yet", "see `ivctl status`")
        })?;
        let vni = self.config.network(network).map_or(0, |n| n.vni);
        let [_, a, b, c] = vni.to_be_bytes();
        let payload = [&[8, 0, 0, 0, a, b, c, 0], inner].concat();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], self.uplink_mac()?);
        let builder = match (peer, vtep) {
            (IpAddr::V4(peer), IpAddr::V4(vtep)) => builder.ipv4(peer.octets(), vtep.octets(), 64),
            (IpAddr::V6(peer), IpAddr::V6(vtep)) => builder.ipv6(peer.octets(), vtep.octets(), 64),
            _ => {
                let why = format!("peer {peer} is of another address family than the VTEP {vtep}");
                return Err(Failure::new(1, "trace", why, "correct one of them"));
            }
        };
        let mut bytes = Vec::new();
        builder.udp(50_000, self.status.tunnel_port).write(&mut bytes, &payload).map_err(too_long)?;
        Ok(bytes)
    }
}

/// The MAC address for a group or broadcast address (RFC 1112 s.6.4, RFC 2464 s.7).
fn group_mac(to: IpAddr) -> Option<[u8; 6]> {
    match to {
        IpAddr::V4(ip) if ip.is_broadcast() => Some([0xff; 6]),
        IpAddr::V4(ip) if ip.is_multicast() => {
            let [_, b, c, d] = ip.octets();
            Some([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(ip) if ip.is_multicast() => {
            let o = ip.octets();
            Some([0x33, 0x33, o[12], o[13], o[14], o[15]])
        }
        _ => None,
    }
}

fn packet(
    src_mac: [u8; 6],
    dst_mac: [u8; 6],
    src: IpAddr,
    dst: IpAddr,
    protocol: &str,
    header: &Header,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    if protocol == "arp" {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else {
            return Err(Failure::new(2, "trace", "ARP asks for IPv4 addresses", "give an IPv4 --to"));
        };
        bytes.extend(dst_mac);
        bytes.extend(src_mac);
        if let Some(vid) = header.vlan {
            bytes.extend([0x81, 0]);
            bytes.extend(vid.to_be_bytes());
        }
        bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        bytes.extend(src_mac);
        bytes.extend(src.octets());
        bytes.extend([0; 6]);
        bytes.extend(dst.octets());
        return Ok(bytes);
    }
    let ip: PacketBuilderStep<etherparse::IpHeaders> = {
        let ethernet = PacketBuilder::ethernet2(src_mac, dst_mac);
        match (header.vlan, src, dst) {
            (None, IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), header.ttl),
            (None, IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), header.ttl),
            (Some(vid), a, b) => {
                let tagged = ethernet.single_vlan(VlanId::try_new(vid).unwrap_or_default());
                match (a, b) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => tagged.ipv4(a.octets(), b.octets(), header.ttl),
                    (IpAddr::V6(a), IpAddr::V6(b)) => tagged.ipv6(a.octets(), b.octets(), header.ttl),
                    _ => unreachable!("families were compared"),
                }
            }
            _ => unreachable!("families were compared"),
        }
    };
    let payload = vec![0; usize::from(header.size)];
    let (sport, dport) = (header.sport, header.dport);
    match protocol {
        "tcp" => ip.tcp(sport, dport, 1, 64_000).syn().write(&mut bytes, &payload),
        "udp" => ip.udp(sport, dport).write(&mut bytes, &payload),
        "icmp" if src.is_ipv4() => ip.icmpv4_echo_request(1, 1).write(&mut bytes, &payload),
        "icmp" | "icmp6" if src.is_ipv6() => ip.icmpv6_echo_request(1, 1).write(&mut bytes, &payload),
        _ => {
            let how = "give tcp, udp, icmp or arp; any other frame with --hex or --pcap";
            return Err(Failure::new(2, "trace", format!("a \"{protocol}\" frame cannot be built"), how));
        }
    }
    .map_err(too_long)?;
    Ok(bytes)
}

fn too_long(e: impl std::fmt::Display) -> Failure {
    Failure::new(2, "trace", e.to_string(), "give a smaller --size")
}
