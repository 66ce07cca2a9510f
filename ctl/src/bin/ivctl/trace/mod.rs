//! `ivctl trace`: a frame's way through the pipeline, step by step, as the switch itself decides it.

mod frame;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctl::api::{CaptureStarted, Captured, PortRow, Rows, SentRow, WalkRow};
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::PcapNgReader;
use serde_json::{Value, json};

use crate::client::Client;
use crate::decode;
use crate::output::{Failure, Paint, Printer, plain};
use crate::{Global, Object};

/// The most switches that a frame is followed through.
const HOPS_MAX: usize = 4;

/// The pause before the next read, after one without frames.
const PAUSE: Duration = Duration::from_millis(20);

/// Explain the way of a frame through the switch
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A frame is built (--from, --to and a protocol), read (--pcap, --hex), or awaited (--next \
and a filter in tcpdump's syntax). A built or read frame goes through the switch's pipeline in a dry run: \
nothing is learned, sent or counted. On the uplink its way begins with the steering, which may leave it to \
the rVM's kernel. Addresses that are not given come from the configuration and from the switch's tables.\n\n\
Examples:\n  ivctl trace --from eth2 --src 56.0.0.11 --to 203.0.113.9 tcp --dport 80\n  \
  ivctl trace --from uplink --pcap odd.pcap --frame 3\n  ivctl trace --next --from eth2 icmp and host 56.0.0.11\n\n\
Exit codes: 0 the frame is delivered, or left to the rVM's kernel, 8 some or all of it is dropped."
)]
pub struct Args {
    /// The source of the frame: a port, or a peer that tunnels it
    #[arg(long, value_name = "PORT|PEER", required_unless_present = "next")]
    from: Option<String>,
    /// Destination address
    #[arg(long, value_name = "IP", conflicts_with_all = ["pcap", "hex", "next"])]
    to: Option<IpAddr>,
    /// tcp, udp, icmp (the default) or arp; with --next, a filter
    #[arg(value_name = "PROTOCOL|FILTER")]
    what: Vec<String>,
    #[command(flatten)]
    header: frame::Header,
    /// Read the frame from this pcap or pcapng file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hex", "next"])]
    pcap: Option<PathBuf>,
    /// Number of the frame in the file, from 1
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pcap")]
    frame: usize,
    /// The frame in hexadecimal
    #[arg(long, value_name = "BYTES", conflicts_with = "next")]
    hex: Option<String>,
    /// The next frame that comes in (and matches the filter)
    #[arg(long)]
    next: bool,
    /// Seconds to wait for that frame
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, requires = "next", value_parser = crate::seconds)]
    wait: f64,
    /// Follow the frame through the tunnel to this peer, whose daemon has this control socket
    #[arg(long = "peer", value_name = "NAME=SOCKET", value_parser = peer)]
    peers: Vec<(String, PathBuf)>,
}

fn peer(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("write it as rvm1=/run/ivswitch/control.sock")?;
    Ok((name.to_owned(), PathBuf::from(path)))
}

/// One switch on a frame's way.
struct Hop {
    rvm: String,
    port: String,
    bytes: Vec<u8>,
    notes: Vec<String>,
    walk: WalkRow,
}

/// Traces a frame.
pub fn run(args: &Args, global: &Global, printer: &Printer) -> Result<u8, Failure> {
    let mut client = Client::connect(&global.socket, global.timeout, global.no_wait)?;
    let rvm = client.call::<ctl::api::Version>("version", json!({}))?.name;
    let first = if args.next {
        awaited(args, &mut client, rvm)?
    } else {
        let (port, bytes, notes) = given(args, &mut client)?;
        let walk = trace(&mut client, &port, &bytes)?;
        Hop { rvm, port, bytes, notes, walk }
    };
    let sockets: BTreeMap<&str, &Path> = args.peers.iter().map(|(n, p)| (n.as_str(), p.as_path())).collect();
    let mut hops = vec![first];
    follow(&mut hops, &sockets, global)?;
    if printer.is_json() {
        let json = |hop: &Hop| {
            json!({ "rvm": hop.rvm, "port": hop.port, "frame": decode::line(&hop.bytes), "bytes": decode::hex(&hop.bytes),
                "notes": hop.notes, "walk": hop.walk })
        };
        printer.json(&hops.iter().map(json).collect::<Vec<Value>>())?;
    } else {
        let text: String = hops.iter().map(|hop| render(hop, printer.paint())).collect();
        printer.text(&text)?;
    }
    let delivered = hops.iter().all(|hop| hop.walk.delivered);
    Ok(if delivered { 0 } else { crate::DONE_WITH_WARNINGS })
}

fn trace(client: &mut Client, port: &str, bytes: &[u8]) -> Result<WalkRow, Failure> {
    client.call("trace", json!({ "port": port, "frame": decode::hex(bytes) }))
}

/// The frame that the arguments describe: port, bytes, and the assumptions.
fn given(args: &Args, client: &mut Client) -> Result<(String, Vec<u8>, Vec<String>), Failure> {
    let from = args.from.clone().unwrap_or_default();
    if let Some(path) = &args.pcap {
        return Ok((from, from_file(path, args.frame)?, Vec::new()));
    }
    if let Some(hex) = &args.hex {
        let bytes = decode::unhex(hex).ok_or_else(|| {
            Failure::new(
                2,
                "--hex is not a frame",
                "it is not hexadecimal",
                "write it as 0200000000020200...",
            )
        })?;
        return Ok((from, bytes, Vec::new()));
    }
    let Some(to) = args.to else {
        let how = "give --to IP, or a frame with --pcap or --hex, or wait for one with --next";
        return Err(Failure::new(2, "there is nothing to trace", "no destination is given", how));
    };
    let protocol = match args.what.as_slice() {
        [] => "icmp",
        [one] => one.as_str(),
        more => {
            let why = format!("\"{}\" is not a protocol", more.join(" "));
            return Err(Failure::new(
                2,
                "trace",
                why,
                "give tcp, udp, icmp or arp; a filter goes with --next",
            ));
        }
    };
    frame::make(client, &from, to, protocol, &args.header)
}

/// Reads a frame from a capture file.
fn from_file(path: &Path, number: usize) -> Result<Vec<u8>, Failure> {
    let name = || path.display().to_string();
    let open =
        || File::open(path).map_err(|e| Failure::new(3, name(), e.to_string(), "name a pcap or pcapng file"));
    let missing = |count: usize| {
        let how = format!("give --frame 1 to {count}");
        Failure::new(3, name(), format!("it has {count} frames, and no frame {number}"), how)
    };
    let bad = |e: pcap_file::PcapError| {
        let why = format!("it is neither pcap nor pcapng, or damaged ({e})");
        Failure::new(
            1,
            name(),
            why,
            "name a capture file, such as `ivctl capture all -w FILE` or tcpdump writes",
        )
    };
    let at = number.checked_sub(1).ok_or_else(|| missing(0))?;
    let mut count = 0;
    if let Ok(mut reader) = PcapReader::new(open()?) {
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(bad)?;
            if count == at {
                return Ok(packet.data.into_owned());
            }
            count += 1;
        }
        return Err(missing(count));
    }
    let mut reader = PcapNgReader::new(open()?).map_err(bad)?;
    while let Some(block) = reader.next_block() {
        if let Some(packet) = block.map_err(bad)?.into_enhanced_packet() {
            if count == at {
                return Ok(packet.data.into_owned());
            }
            count += 1;
        }
    }
    Err(missing(count))
}

/// Waits for the next frame that comes in.
fn awaited(args: &Args, client: &mut Client, rvm: String) -> Result<Hop, Failure> {
    let filter = args.what.join(" ");
    let params = Object::default()
        .put("port", args.from.as_ref())
        .put("filter", Some(&filter))
        .put("count", Some(1))
        .put("incoming", Some(true))
        .put("walk", Some(true))
        .value();
    let started: CaptureStarted = client.call("capture.start", params)?;
    let end = Instant::now() + Duration::from_secs_f64(args.wait);
    loop {
        let seen: Captured = client.call("capture.read", json!({ "capture": started.capture }))?;
        if let Some(frame) = seen.frames.into_iter().next() {
            let walk = frame.walk.unwrap_or_default();
            let bytes = decode::unhex(&frame.bytes).unwrap_or_default();
            return Ok(Hop { rvm, port: frame.port, bytes, notes: Vec::new(), walk });
        }
        if Instant::now() >= end {
            let what = if filter.is_empty() {
                "no frame came in".to_owned()
            } else {
                format!("no frame `{filter}` came in")
            };
            let why = format!("{} seconds passed on {}", args.wait, started.ports.join(", "));
            return Err(Failure::new(
                7,
                what,
                why,
                "see what does come with `ivctl capture all --incoming`; or wait longer with --wait",
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Continues at the peers whose daemons can be reached.
fn follow(hops: &mut Vec<Hop>, sockets: &BTreeMap<&str, &Path>, global: &Global) -> Result<(), Failure> {
    let mut next = 0;
    while next < hops.len() && hops.len() <= HOPS_MAX {
        let onward: Vec<(String, Vec<u8>)> = hops[next]
            .walk
            .sent
            .iter()
            .filter_map(|sent| Some((sent.peer.clone()?, decode::unhex(&sent.bytes)?)))
            .collect();
        for (name, mut bytes) in onward {
            let Some(socket) = sockets.get(name.as_str()) else { continue };
            let mut client = Client::connect(socket, global.timeout, global.no_wait)?;
            let rows: Rows<PortRow> = client.call("port.list", json!({ "name": "uplink" }))?;
            let mut notes = Vec::new();
            let own = rows.rows.first().and_then(|row| row.address.as_deref()).and_then(decode::unhex);
            if let Some(own) = own.filter(|own| own.len() == 6 && bytes.len() > 6 && bytes[..6] != own[..]) {
                notes.push(
                    "a router of the underlay is in between: the destination MAC is set to this NIC's"
                        .to_owned(),
                );
                bytes[..6].copy_from_slice(&own);
            }
            let walk = trace(&mut client, "uplink", &bytes)?;
            hops.push(Hop { rvm: name, port: "uplink".to_owned(), bytes, notes, walk });
        }
        next += 1;
    }
    Ok(())
}

/// Renders a hop for people.
fn render(hop: &Hop, paint: Paint) -> String {
    let mut text =
        format!("{} port {}: {}\n", paint.bold(&plain(&hop.rvm)), plain(&hop.port), decode::line(&hop.bytes));
    for note in &hop.notes {
        let _ = writeln!(text, "  {:9} {}", "assumed", plain(note));
    }
    for step in &hop.walk.steps {
        let table = step.table.as_deref().map(|t| format!(" [{}]", plain(t))).unwrap_or_default();
        let _ = writeln!(text, "  {:9} {}{table}", plain(&step.stage), plain(&step.text));
    }
    for sent in &hop.walk.sent {
        let _ = writeln!(text, "  {:9} {}", "sent", sent_line(sent));
    }
    let verdict = plain(&hop.walk.verdict);
    let verdict = if hop.walk.delivered { paint.green(&verdict) } else { paint.red(&verdict) };
    let _ = writeln!(text, "  {:9} {verdict}", "verdict");
    text
}

fn sent_line(sent: &SentRow) -> String {
    let peer = sent.peer.as_ref().map(|peer| format!(" to {}", plain(peer))).unwrap_or_default();
    let frame = decode::hex_line(&sent.bytes);
    format!("{}{peer}: {frame} ({} bytes)", plain(&sent.port), sent.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_for_people() {
        let step = |stage: &str, table: Option<&str>, text: &str| ctl::api::StepRow {
            stage: stage.into(),
            table: table.map(Into::into),
            text: text.into(),
        };
        let hop = Hop {
            rvm: "rvm2".into(),
            port: "eth1".into(),
            bytes: vec![2; 14],
            notes: vec!["source MAC of the door".into()],
            walk: WalkRow {
                steps: vec![
                    step("admit", None, "network private (VNI 100), untagged"),
                    step("classify", Some("fdb"), "02:02:02:02:02:02 is behind port \u{1b}h1"),
                ],
                verdict: "network private; to h1".into(),
                delivered: true,
                sent: vec![SentRow { port: "h1".into(), peer: None, len: 14, bytes: "02".repeat(14) }],
                drops: vec![],
            },
        };
        let expected = "\
rvm2 port eth1: 02:02:02:02:02:02 > 02:02:02:02:02:02, type 0x0202
  assumed   source MAC of the door
  admit     network private (VNI 100), untagged
  classify  02:02:02:02:02:02 is behind port ?h1 [fdb]
  sent      h1: 02:02:02:02:02:02 > 02:02:02:02:02:02, type 0x0202 (14 bytes)
  verdict   network private; to h1
";
        assert_eq!(render(&hop, Paint(false)), expected);
    }

    #[test]
    fn frames_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let mut writer = pcap_file::pcap::PcapWriter::new(File::create(&path).unwrap()).unwrap();
        for n in 1..=2u8 {
            let bytes = [n; 20];
            let packet = pcap_file::pcap::PcapPacket::new(Duration::ZERO, 20, &bytes);
            writer.write_packet(&packet).unwrap();
        }
        drop(writer);
        assert_eq!(from_file(&path, 2).unwrap(), [2; 20]);
        assert_eq!(from_file(&path, 3).unwrap_err().code, 3);
        assert_eq!(from_file(&path, 0).unwrap_err().code, 3);
        assert_eq!(from_file(Path::new("/nonexistent"), 1).unwrap_err().code, 3);
        std::fs::write(&path, "no capture").unwrap();
        assert_eq!(from_file(&path, 1).unwrap_err().code, 1);
    }
}
