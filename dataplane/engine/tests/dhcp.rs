//! DHCP for guests, frame by frame: which questions get an answer, its content, and which frames are dropped.
//! smoltcp and etherparse read the answers.

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::frame::{Batch, FramePool, HeapPool, Offload};
use engine::limits::FDB_AGE;
use engine::time::Instant;
use engine::wire::checksum::transport_ok;
use engine::wire::ip::Ip;
use engine::wire::mac::MacAddr;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Address};

/// A guest with addresses, one without, and a door.
const GUEST: PortId = PortId(0);
const FREE: PortId = PortId(1);
const DOOR: PortId = PortId(2);

const OWN: Ipv4Address = Ipv4Address::new(10, 1, 0, 5);
const NOBODY: Ipv4Address = Ipv4Address::UNSPECIFIED;
const ROUTER: MacAddr = MacAddr([2, 0x69, 0x76, 0, 0, 100]);

/// The vendor class of a client that boots from the network.
const PXE: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";

struct World {
    switch: Switch,
    pool: HeapPool,
}

fn mac(id: PortId) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, id.0 as u8])
}

impl World {
    fn new(dhcp: bool) -> Self {
        let mut world = Self { switch: Switch::new(1), pool: HeapPool::new(64, 8) };
        let vni = Vni::new(100).unwrap();
        let prefix = |text: &str, len| IpPrefix { addr: text.parse().unwrap(), len };
        world.apply(Command::SetNetwork(NetworkConfig {
            vni,
            gateways: vec!["10.1.0.1".parse().unwrap()],
            router_mac: ROUTER,
            fdb_max: 100,
            fdb_age: FDB_AGE,
            mss_clamp: true,
            dhcp: dhcp.then(|| {
                Box::new(DhcpConfig {
                    prefixes: vec![prefix("10.9.0.0", 16), prefix("10.1.0.0", 24), prefix("fd01::", 64)],
                    dns: vec!["9.9.9.9".parse().unwrap(), "2620:fe::9".parse().unwrap()],
                    boot: None,
                })
            }),
        }));
        for (id, role) in [(GUEST, Role::Guest), (FREE, Role::Guest), (DOOR, Role::Door)] {
            let ips = match id {
                GUEST => vec![prefix("10.1.0.5", 32), prefix("fd01::5", 128)],
                _ => vec![],
            };
            let macs = if role == Role::Guest { vec![mac(id)] } else { vec![] };
            world.apply(Command::SetPort(
                id,
                PortConfig {
                    vni: Some(vni),
                    role,
                    live: true,
                    mtu: 1450,
                    vlan: VlanPolicy::Transparent,
                    binding: Box::new(Binding { macs, ips, ..Binding::default() }),
                    bum_pps: None,
                    policy: Box::default(),
                    fdb_max: 100,
                },
            ));
        }
        world
    }

    fn apply(&mut self, command: Command) {
        self.switch.apply(Instant::from_millis(1000), command, &mut self.pool);
    }

    /// The frames that come out, by port. Checks conservation and that no frame is lost.
    fn forward(&mut self, at: PortId, bytes: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        let mut frame = self.pool.alloc_from(bytes).unwrap();
        frame.offload = Offload::NONE;
        let mut batch = Batch::new();
        batch.push(frame);
        self.switch.forward(Instant::from_millis(1000), at, &mut batch, &mut self.pool);
        let mut out = Vec::new();
        for id in [GUEST, FREE, DOOR] {
            self.switch.flush(id, &mut self.pool, |pool, queue| {
                for frame in queue.drain(..) {
                    out.push((id, pool.bytes(&frame).to_vec()));
                    pool.free(frame);
                }
                Ok(())
            });
        }
        assert!(self.switch.counters().conserved(), "{:?}", self.switch.counters());
        assert_eq!(self.pool.usage().used, 0);
        out
    }

    fn malformed(&self, port: PortId) -> u64 {
        self.switch.port_counters(port).unwrap().drops[DropReason::DhcpMalformed as usize]
    }

    /// The DHCP message of the single answer to a question from the guest.
    fn answer(&mut self, question: &[u8]) -> Vec<u8> {
        let out = self.forward(GUEST, question);
        let [(GUEST, frame)] = out.as_slice() else { panic!("{out:?}") };
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("{sliced:?}") };
        let (src, dst) = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
                (Ip::v4(header.source()), Ip::v4(header.destination()))
            }
            NetSlice::Ipv6(ip) => (Ip::v6(ip.header().source()), Ip::v6(ip.header().destination())),
            other => panic!("{other:?}"),
        };
        assert!(transport_ok(src, dst, 17, udp.slice()), "the checksum of the answer");
        assert_eq!((&frame[..6], &frame[6..12]), (&mac(GUEST).0[..], &ROUTER.0[..]));
        udp.payload().to_vec()
    }
}

fn v4(
    at: PortId,
    kind: DhcpMessageType,
    wanted: Option<Ipv4Address>,
    server: Option<Ipv4Address>,
) -> Vec<u8> {
    let repr = DhcpRepr {
        message_type: kind,
        transaction_id: 0x1234_5678,
        secs: 0,
        client_hardware_address: EthernetAddress(mac(at).0),
        client_ip: NOBODY,
        your_ip: NOBODY,
        server_ip: NOBODY,
        router: None,
        subnet_mask: None,
        relay_agent_ip: NOBODY,
        broadcast: false,
        requested_ip: wanted,
        client_identifier: None,
        server_identifier: server,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut message = vec![0; 300];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).unwrap();
    udp4(at, &message)
}

fn udp4(at: PortId, message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(mac(at).0, [255; 6]).ipv4([0; 4], [255; 4], 64).udp(68, 67);
    packet.write(&mut frame, message).unwrap();
    frame
}

fn v6(kind: u8, options: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut message = vec![kind, 1, 2, 3];
    for (code, value) in options {
        message.extend(code.to_be_bytes());
        message.extend((value.len() as u16).to_be_bytes());
        message.extend(value);
    }
    let source = mac(GUEST).link_local();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
    let mut frame = Vec::new();
    let packet =
        PacketBuilder::ethernet2(mac(GUEST).0, [0x33, 0x33, 0, 1, 0, 2]).ipv6(source, group, 1).udp(546, 547);
    packet.write(&mut frame, &message).unwrap();
    frame
}

/// The options of a DHCPv6 message.
fn options(message: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let (mut rest, mut options) = (&message[4..], Vec::new());
    while let [a, b, c, d, after @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*c, *d]));
        options.push((u16::from_be_bytes([*a, *b]), after[..len].to_vec()));
        rest = &after[len..];
    }
    assert!(rest.is_empty());
    options
}

#[test]
fn a_guest_gets_the_address_of_its_binding() {
    let mut w = World::new(true);
    let offer = w.answer(&v4(GUEST, DhcpMessageType::Discover, None, None));
    let packet = DhcpPacket::new_checked(&offer[..]).unwrap();
    let offer = DhcpRepr::parse(&packet).unwrap();
    let server = Ipv4Address::new(10, 1, 0, 1);
    assert_eq!((offer.message_type, offer.your_ip), (DhcpMessageType::Offer, OWN));
    assert_eq!((offer.router, offer.server_identifier), (Some(server), Some(server)));
    assert_eq!(offer.subnet_mask, Some(Ipv4Address::new(255, 255, 255, 0)));
    assert_eq!(offer.dns_servers.as_deref(), Some(&[Ipv4Address::new(9, 9, 9, 9)][..]));
    assert_eq!(offer.transaction_id, 0x1234_5678);
    assert!(offer.lease_duration.is_some());
    let mtu = packet.options().find(|o| o.kind == 26).map(|o| o.data.to_vec());
    assert_eq!(mtu, Some(1450u16.to_be_bytes().to_vec()));

    let kind = |w: &mut World, question: &[u8]| {
        let answer = w.answer(question);
        DhcpRepr::parse(&DhcpPacket::new_checked(&answer[..]).unwrap()).unwrap().message_type
    };
    let request = |wanted| v4(GUEST, DhcpMessageType::Request, Some(wanted), Some(server));
    assert_eq!(kind(&mut w, &request(OWN)), DhcpMessageType::Ack);
    assert_eq!(kind(&mut w, &request(Ipv4Address::new(10, 1, 0, 6))), DhcpMessageType::Nak);
    assert_eq!(kind(&mut w, &v4(GUEST, DhcpMessageType::Inform, None, None)), DhcpMessageType::Ack);
    assert!(w.forward(GUEST, &v4(GUEST, DhcpMessageType::Release, None, Some(server))).is_empty());
    assert_eq!(w.malformed(GUEST), 0);
}

/// A client identifier of any kind and length returns unchanged (RFC 6842). One longer than the standard
/// permits gets no answer.
#[test]
fn a_clients_identifier_goes_back() {
    let mut w = World::new(true);
    for (len, answered) in [(6, true), (19, true), (135, true), (136, false)] {
        let mut message = v4(GUEST, DhcpMessageType::Discover, None, None)[42..].to_vec();
        let end = 240 + 3;
        assert_eq!(message[end], 255, "after the message type, the end");
        let client: Vec<u8> = (0..len).map(|n| n ^ 0xff).collect();
        message.truncate(end);
        message.extend([61, len]);
        message.extend(&client);
        message.push(255);
        if !answered {
            assert!(w.forward(GUEST, &udp4(GUEST, &message)).is_empty());
            continue;
        }
        let answer = w.answer(&udp4(GUEST, &message));
        let packet = DhcpPacket::new_checked(&answer[..]).unwrap();
        let said: Vec<_> = packet.options().filter(|o| o.kind == 61).map(|o| o.data.to_vec()).collect();
        assert_eq!(said, [client], "{len} bytes");
        assert!(packet.options().any(|o| o.kind == 26) && answer.len() <= 548);
    }
    assert_eq!(w.malformed(GUEST), 1);
}

/// The switch does not answer by default, without a binding, behind a door, or when the guest has accepted
/// another server's offer.
#[test]
fn other_questions_go_their_way() {
    let discover = |at| v4(at, DhcpMessageType::Discover, None, None);
    let mut off = World::new(false);
    assert_eq!(off.forward(GUEST, &discover(GUEST)).len(), 2, "flooded");
    let mut w = World::new(true);
    for at in [FREE, DOOR] {
        let out = w.forward(at, &discover(at));
        assert!(
            out.len() == 2 && out.iter().all(|(to, frame)| *to != at && *frame == discover(at)),
            "{at:?}"
        );
    }
    let other = v4(GUEST, DhcpMessageType::Request, Some(OWN), Some(Ipv4Address::new(10, 1, 0, 99)));
    assert_eq!(w.forward(GUEST, &other).len(), 2);
}

/// The same question with a vendor class (RFC 2132 §9.13).
fn of_class(question: &[u8], class: &[u8]) -> Vec<u8> {
    let mut message = question[42..].to_vec();
    let end = message.iter().rposition(|byte| *byte == 255).unwrap();
    message.truncate(end);
    message.extend([60, class.len() as u8]);
    message.extend(class);
    message.push(255);
    message.resize(message.len().max(300), 0);
    udp4(GUEST, &message)
}

/// A guest boots from the network. It gets its address from the switch, and its question also reaches
/// possible boot servers, but no guests. This holds within the port's flood limit, and for a broadcast only.
#[test]
fn a_boot_server_is_asked_too() {
    let mut w = World::new(true);
    for class in [PXE, b"HTTPClient:Arch:00016"] {
        for kind in [DhcpMessageType::Discover, DhcpMessageType::Request] {
            let question = of_class(&v4(GUEST, kind, Some(OWN), None), class);
            let mut out = w.forward(GUEST, &question);
            out.sort_by_key(|(to, _)| to.0);
            let [(GUEST, answer), (DOOR, asked)] = out.as_slice() else { panic!("{out:?}") };
            assert_eq!(asked, &question, "as it was asked");
            let packet = DhcpPacket::new_checked(&answer[42..]).unwrap();
            assert_eq!(DhcpRepr::parse(&packet).unwrap().your_ip, OWN);
        }
    }
    let mut renewal = of_class(&v4(GUEST, DhcpMessageType::Request, Some(OWN), None), PXE);
    renewal[..6].copy_from_slice(&ROUTER.0);
    assert_eq!(w.forward(GUEST, &renewal).len(), 1, "to the switch alone");
    assert_eq!(
        w.forward(GUEST, &of_class(&v4(GUEST, DhcpMessageType::Discover, None, None), b"MSFT 5.0")).len(),
        1
    );

    let port = w.switch.tables().ports.get(GUEST).unwrap().config.clone();
    w.apply(Command::SetPort(GUEST, PortConfig { bum_pps: Some(4), ..port }));
    let question = of_class(&v4(GUEST, DhcpMessageType::Discover, None, None), PXE);
    let asked = (0..10).filter(|_| w.forward(GUEST, &question).len() == 2).count();
    assert_eq!(asked, 1, "a quarter of a second's worth");
    w.apply(Command::RemovePort(DOOR));
    assert_eq!(w.forward(GUEST, &question).len(), 1, "there is nobody to ask");
}

/// A boot server in the configuration is in every answer, and no other server gets the question.
#[test]
fn a_configured_boot_server_is_told() {
    let mut w = World::new(true);
    let mut network = w.switch.tables().networks.get(Vni::new(100).unwrap()).unwrap().config.clone();
    let server = Ipv4Address::new(10, 1, 0, 50);
    for file in [&b"pxelinux.0"[..], &[b'x'; 127], b"http://10.1.0.50/boot.efi", b""] {
        let boot = BootConfig { server: Some(server), file: file.to_vec() };
        network.dhcp.as_mut().unwrap().boot = Some(boot);
        w.apply(Command::SetNetwork(network.clone()));
        let question = v4(GUEST, DhcpMessageType::Discover, None, None);
        for (class, echoed) in
            [(PXE, None), (b"HTTPClient:Arch:00016", Some(&b"HTTPClient"[..])), (b"MSFT", None)]
        {
            let answer = w.answer(&of_class(&question, class));
            let packet = DhcpPacket::new_checked(&answer[..]).unwrap();
            assert_eq!(packet.server_ip(), server);
            assert_eq!((&answer[108..108 + file.len()], answer[108 + file.len()]), (file, 0));
            assert!(answer[108 + file.len()..236].iter().all(|byte| *byte == 0));
            let said = packet.options().find(|o| o.kind == 60).map(|o| o.data);
            assert_eq!(said, echoed);
            assert_eq!(DhcpRepr::parse(&packet).unwrap().your_ip, OWN);
        }
    }
    // A refusal does not contain boot options.
    let other = v4(GUEST, DhcpMessageType::Request, Some(Ipv4Address::new(10, 1, 0, 6)), None);
    let refusal = w.answer(&of_class(&other, PXE));
    assert_eq!(&refusal[20..24], &[0; 4]);
    assert!(refusal[108..236].iter().all(|byte| *byte == 0));
}

#[test]
fn dhcpv6_too() {
    let mut w = World::new(true);
    let (client, iaid) = (vec![0, 3, 0, 1, 1, 2, 3, 4, 5, 6], [[0, 0, 0, 7].as_slice(), &[0; 8]].concat());
    let solicit = [(1, client.clone()), (3, iaid.clone())];
    let answer = w.answer(&v6(1, &solicit));
    assert_eq!(&answer[..4], &[2, 1, 2, 3], "an advertisement of that transaction");
    let said = options(&answer);
    let get = |said: &[(u16, Vec<u8>)], code| said.iter().find(|(c, _)| *c == code).map(|(_, v)| v.clone());
    assert_eq!(get(&said, 1), Some(client.clone()));
    let address = "fd01::5".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let ia = get(&said, 3).expect("an address");
    assert_eq!((&ia[..4], &ia[16..32]), (&[0, 0, 0, 7][..], &address[..]));
    assert_eq!(get(&said, 23), Some("2620:fe::9".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()));
    let server = get(&said, 2).expect("a server");

    let request = [(1, client.clone()), (2, server.clone()), (3, iaid.clone())];
    for kind in [3, 5] {
        let answer = w.answer(&v6(kind, &request));
        assert!(answer[0] == 7 && get(&options(&answer), 3).is_some(), "message {kind}");
    }
    assert_eq!(w.answer(&v6(1, &[solicit.as_slice(), &[(14, vec![])]].concat()))[0], 7, "rapid commit");
    assert!(get(&options(&w.answer(&v6(11, &[]))), 23).is_some(), "information only");
    assert_eq!(get(&options(&w.answer(&v6(8, &request))), 13), Some(vec![0, 0]));
    let foreign = [(1, client.clone()), (2, vec![9; 10]), (3, iaid)];
    assert_eq!(w.forward(GUEST, &v6(3, &foreign)).len(), 2, "another server's");
    assert_eq!(w.malformed(GUEST), 0);
    assert!(w.forward(GUEST, &v6(3, &[(1, client)])).is_empty(), "a request to nobody");
    assert_eq!(w.malformed(GUEST), 1);
}

/// Every message of a hostile guest to the server's port is answered, switched, or dropped with a reason.
/// Tries every truncation and every flipped byte of good questions.
#[test]
fn hostile_questions_are_counted() {
    let mut w = World::new(true);
    assert!(w.forward(GUEST, &udp4(GUEST, &[0; 20])).is_empty());
    let mut relayed = v4(GUEST, DhcpMessageType::Discover, None, None);
    relayed[14 + 20 + 8 + 24] = 10;
    assert!(w.forward(GUEST, &relayed).is_empty(), "no guest is a relay");
    let mut other = v4(GUEST, DhcpMessageType::Discover, None, None);
    other[14 + 20 + 8 + 28] ^= 1;
    assert!(w.forward(GUEST, &other).is_empty(), "not for another's MAC");
    assert_eq!(w.malformed(GUEST), 3);
    let questions = [
        v4(GUEST, DhcpMessageType::Discover, Some(OWN), None),
        v6(1, &[(1, vec![1; 10]), (3, vec![0; 12]), (14, vec![])]),
    ];
    for question in questions {
        let headers = if question[12] == 8 { 42 } else { 62 };
        for at in headers..question.len() {
            // Truncate: correct the lengths, so that only the message itself is short.
            let message = &question[headers..at];
            let cut = if headers == 42 { udp4(GUEST, message) } else { v6_raw(message) };
            w.forward(GUEST, &cut);
            for bit in [1, 0x80, 0xff] {
                let mut message = question[headers..].to_vec();
                message[at - headers] ^= bit;
                let flipped = if headers == 42 { udp4(GUEST, &message) } else { v6_raw(&message) };
                w.forward(GUEST, &flipped);
            }
        }
    }
    assert!(w.malformed(GUEST) > 200);
}

fn v6_raw(message: &[u8]) -> Vec<u8> {
    let source = mac(GUEST).link_local();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
    let mut frame = Vec::new();
    let packet =
        PacketBuilder::ethernet2(mac(GUEST).0, [0x33, 0x33, 0, 1, 0, 2]).ipv6(source, group, 1).udp(546, 547);
    packet.write(&mut frame, message).unwrap();
    frame
}
