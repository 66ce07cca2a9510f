//! `ivctl capture`: frames of a port, or of all, as pcapng with the verdict as each packet's comment.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ctl::api::{CaptureStarted, Captured, SeenRow};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use serde_json::json;

use crate::Object;
use crate::client::Client;
use crate::decode;
use crate::output::{Failure, Printer, plain};

/// The pause before the next read, after one without frames.
const PAUSE: Duration = Duration::from_millis(50);

/// Show or record frames as they pass
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Filters are tcpdump's: arp, ip, ip6, icmp, icmp6, tcp, udp, [src|dst] host, net, port, \
portrange, ether, vlan, vni; and, or, not, parentheses. A term matches the frame or, in a tunnel packet, the \
inner frame, and skips VLAN tags. A partial checksum is shown as it is, because the output completes it.\n\n\
Examples:\n  ivctl capture eth2 -w - tcp port 80 | wireshark -k -i -\n  ivctl capture all -w drops.pcapng -c 1000"
)]
pub struct Args {
    /// The port, or all ports
    #[arg(value_name = "PORT|all")]
    port: String,
    /// Only frames that match this filter, in tcpdump's syntax
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Write pcapng to this file; - for standard output. Without it, print one line per frame
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Stop after this number of frames
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Keep this number of bytes of each frame
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: Option<u32>,
    /// Only frames that come in
    #[arg(long)]
    incoming: bool,
    /// Stop after this number of seconds
    #[arg(long, value_name = "SECONDS", value_parser = crate::seconds)]
    duration: Option<f64>,
}

/// Captures until interrupted.
pub fn run(args: &Args, mut client: Client, printer: &Printer) -> Result<u8, Failure> {
    let port = (args.port != "all").then_some(args.port.as_str());
    let params = Object::default()
        .put("port", port)
        .put("filter", Some(args.filter.join(" ")))
        .put("snap_len", args.snaplen)
        .put("count", args.count)
        .put("incoming", Some(args.incoming))
        .value();
    let mut sink = Sink::open(args, printer)?;
    let started: CaptureStarted = client.call("capture.start", params)?;
    sink.begin(&started.ports)?;
    printer.note(&format!("capturing on {}; Ctrl-C ends it", started.ports.join(", ")));
    let stop = on_interrupt();
    let end = args.duration.map(|s| Instant::now() + Duration::from_secs_f64(s));
    let (mut seen, mut lost) = (0u64, 0u64);
    let mut clock = None;
    loop {
        // Frames that were captured before the end are still written.
        let last = stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
        let batch: Captured = client.call("capture.read", json!({ "capture": started.capture }))?;
        let start = *clock.get_or_insert_with(|| wall().saturating_sub(Duration::from_nanos(batch.now)));
        lost += batch.lost;
        let left = args.count.map_or(u64::MAX, |count| u64::from(count) - seen) as usize;
        let frames = &batch.frames[..batch.frames.len().min(left)];
        for frame in frames {
            sink.frame(frame, start + Duration::from_nanos(frame.at))?;
        }
        seen += frames.len() as u64;
        if !frames.is_empty() {
            sink.flush()?;
        }
        if args.count.is_some_and(|count| seen >= u64::from(count)) || (last && batch.frames.is_empty()) {
            break;
        }
        if batch.frames.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
    let text = format!("{seen} frames captured, {lost} lost because they came faster than they were read");
    printer.note(&text);
    Ok(if lost > 0 { crate::DONE_WITH_WARNINGS } else { 0 })
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Sets the flag at Ctrl-C or SIGTERM; a second signal ends the process immediately.
fn on_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // If this fails, the capture only ends less cleanly.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone());
        let _ = signal_hook::flag::register(signal, stop.clone());
    }
    stop
}

/// The output of a capture.
enum Sink<'a> {
    /// A pcapng file, with the ports as its interfaces.
    Pcapng {
        writer: PcapNgWriter<Output>,
        ports: Vec<String>,
        snap_len: u32,
    },
    Lines(&'a Printer),
}

impl<'a> Sink<'a> {
    fn open(args: &Args, printer: &'a Printer) -> Result<Self, Failure> {
        let Some(path) = &args.write else { return Ok(Self::Lines(printer)) };
        let output = if path.as_os_str() == "-" {
            if io::stdout().is_terminal() {
                let how = "pipe it: `ivctl capture all -w - | wireshark -k -i -`";
                return Err(Failure::new(2, "a capture is not text", "standard output is a terminal", how));
            }
            Output(Box::new(io::stdout()))
        } else {
            let file = File::create(path).map_err(|e| {
                Failure::new(1, path.display().to_string(), e.to_string(), "name a file that can be written")
            })?;
            Output(Box::new(io::BufWriter::new(file)))
        };
        let writer = PcapNgWriter::new(output).map_err(|e| unwritable(&e))?;
        Ok(Self::Pcapng { writer, ports: Vec::new(), snap_len: args.snaplen.unwrap_or(0) })
    }

    fn begin(&mut self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            self.interface(name)?;
        }
        self.flush()
    }

    /// The number of a port in the file.
    fn interface(&mut self, name: &str) -> Result<u32, Failure> {
        let Self::Pcapng { writer, ports, snap_len } = self else { return Ok(0) };
        if let Some(at) = ports.iter().position(|port| port == name) {
            return Ok(at as u32);
        }
        let name: Cow<'static, str> = Cow::Owned(name.to_owned());
        // Timestamps are in nanoseconds.
        let options =
            vec![InterfaceDescriptionOption::IfName(name.clone()), InterfaceDescriptionOption::IfTsResol(9)];
        let block = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: *snap_len, options };
        writer.write_pcapng_block(block).map_err(|e| unwritable(&e))?;
        ports.push(name.into_owned());
        Ok(ports.len() as u32 - 1)
    }

    fn frame(&mut self, frame: &SeenRow, at: Duration) -> Result<(), Failure> {
        let way = if frame.leaving { "out" } else { "in" };
        let interface_id = self.interface(&frame.port)?;
        let bytes = decode::unhex(&frame.bytes).unwrap_or_default();
        match self {
            Self::Lines(printer) if printer.is_json() => {
                let mut row = json!(frame);
                row["time"] = json!(at.as_secs_f64());
                row["frame"] = json!(decode::line(&bytes));
                printer.json(&row)
            }
            Self::Lines(printer) => {
                let second = at.as_secs() % 86_400;
                let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
                let line = format!(
                    "{h:02}:{m:02}:{s:02}.{:06} {} {way:3} {} ({} bytes) [{}]\n",
                    at.subsec_micros(),
                    plain(&frame.port),
                    decode::line(&bytes),
                    frame.len,
                    plain(&frame.verdict)
                );
                printer.bytes(line.as_bytes())
            }
            Self::Pcapng { writer, .. } => {
                // epb_flags: the low two bits are the direction.
                let direction = if frame.leaving { 2 } else { 1 };
                let block = EnhancedPacketBlock {
                    interface_id,
                    timestamp: at,
                    original_len: frame.len,
                    data: Cow::Owned(bytes),
                    options: vec![
                        EnhancedPacketOption::Comment(Cow::Borrowed(&frame.verdict)),
                        EnhancedPacketOption::Flags(direction),
                    ],
                };
                writer.write_pcapng_block(block).map(|_| ()).map_err(|e| unwritable(&e))
            }
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::Pcapng { writer, .. } => Ok(writer.get_mut().0.flush()?),
        }
    }
}

/// A file or standard output.
struct Output(Box<dyn Write>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn unwritable(e: &pcap_file::PcapError) -> Failure {
    match e {
        pcap_file::PcapError::IoError(e) => io::Error::new(e.kind(), e.to_string()).into(),
        e => Failure::new(1, "the capture cannot be written", e.to_string(), "please report this"),
    }
}
