//! Capture filters have the same meaning as in tcpdump, which serves as the reference: for every filter, both select
//! the same frames of the same file. (Tunnels and VLAN tags are left out, because our filters look further into these
//! on purpose.)

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapPacket, PcapWriter};

/// A few hundred frames of all kinds between few addresses and ports, so that every filter matches some.
fn frames() -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut frames = Vec::new();
    for _ in 0..400 {
        let mac = |n: u64| [2, 0, 0, 0, 0, n as u8];
        let eth = PacketBuilder::ethernet2(mac(random(3)), mac(random(3)));
        let (a, b) = (random(4) as u8, random(4) as u8);
        let six = random(3) == 0;
        let ip = if six {
            let address = |n| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n];
            eth.ipv6(address(a), address(b), 64)
        } else {
            eth.ipv4([10, a, 0, 1], [10, b, 0, 1], 64)
        };
        let (sport, dport) = ([80, 81, 53, 5000][random(4) as usize], [80, 90, 53][random(3) as usize]);
        let mut bytes = Vec::new();
        match random(5) {
            0 => ip.tcp(sport, dport, 1, 1).write(&mut bytes, b"x").unwrap(),
            1 => ip.udp(sport, dport).write(&mut bytes, b"x").unwrap(),
            2 | 3 if !six => ip.icmpv4_echo_request(1, 1).write(&mut bytes, b"x").unwrap(),
            2 | 3 => ip.icmpv6_echo_request(1, 1).write(&mut bytes, b"x").unwrap(),
            _ => {
                bytes =
                    [&mac(1)[..], &mac(2), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(2), &[10, a, 0, 1]].concat();
                bytes.extend([0, 0, 0, 0, 0, 0, 10, b, 0, 1]);
            }
        }
        frames.push(bytes);
    }
    frames
}

const FILTERS: &[&str] = &[
    "arp",
    "ip",
    "ip6",
    "icmp",
    "icmp6",
    "tcp",
    "udp",
    "not ip",
    "port 80",
    "src port 80",
    "dst port 53",
    "tcp port 80",
    "udp dst port 53",
    "portrange 80-90",
    "tcp src portrange 53-80",
    "host 10.1.0.1",
    "src host 10.2.0.1",
    "dst host fd00::3",
    "net 10.2.0.0/15",
    "src net fd00::/126",
    "ether host 02:00:00:00:00:01",
    "ether src 02:00:00:00:00:02",
    "ether dst 02:00:00:00:00:00",
    "tcp or udp and port 80",
    "tcp or (udp and port 80)",
    "not (host 10.1.0.1 or arp) and not port 53",
    "arp and host 10.3.0.1",
    "ip6 and tcp and dst port 90 or icmp and src host 10.0.0.1",
];

#[test]
fn filters_mean_what_they_mean_to_tcpdump() {
    if Command::new("tcpdump").arg("--version").output().is_err() {
        assert!(std::env::var_os("IVS_MUST_RUN").is_none(), "tcpdump is missing");
        return eprintln!("skipped: tcpdump is not there to be asked");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frames.pcap");
    let frames = frames();
    let mut writer = PcapWriter::new(File::create(&path).unwrap()).unwrap();
    for (n, frame) in frames.iter().enumerate() {
        // The timestamp is the frame's number, which identifies the frame.
        let packet = PcapPacket::new(Duration::from_secs(n as u64), frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
    drop(writer);
    for filter in FILTERS {
        let ours = ctl::filter::parse(filter).unwrap();
        let ours: Vec<usize> = (0..frames.len()).filter(|&n| ours.matches(&frames[n])).collect();
        let tcpdump =
            Command::new("tcpdump").args(["-n", "-tt", "-r"]).arg(&path).arg(filter).output().unwrap();
        let said = String::from_utf8_lossy(&tcpdump.stdout).into_owned();
        let theirs: Vec<usize> =
            said.lines().filter_map(|line| line.split_once('.')?.0.parse().ok()).collect();
        assert_eq!(ours, theirs, "{filter}: {}", String::from_utf8_lossy(&tcpdump.stderr));
        assert!(!ours.is_empty() && ours.len() < frames.len(), "{filter} proves something");
    }
}
