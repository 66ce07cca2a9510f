//! Forwards every frame between two interfaces, both ways, through the daemon's AF_XDP ports and nothing
//! else: measures the cost of port I/O without a switch.
//!
//!     cargo run --release -p ivswitchd --example afxdp_wire -- IF1 IF2 [SECONDS] [auto|native|copy|generic] [spin|sleep]

use std::os::fd::RawFd;
use std::time::{Duration, Instant as Clock};

use ctl::io::{IoKind, OpenPort, XdpMode};
use engine::command::PortId;
use engine::frame::{Batch, Frame, FramePool};
use engine::port::Port;
use engine::time::Instant;
use ivswitchd::ports::afxdp::{self, AfxdpPort, Opened};
use ivswitchd::ports::umem::UmemPool;

/// Forwards one batch from one port to the other. Returns the number of frames.
fn forward(
    now: Instant,
    pool: &mut UmemPool,
    from: &mut AfxdpPort,
    to: &mut AfxdpPort,
    frames: &mut Vec<Frame>,
) -> usize {
    let mut batch = Batch::new();
    from.rx(now, pool, &mut batch);
    let count = batch.len();
    if count > 0 {
        frames.extend(batch);
        to.tx(now, pool, frames);
        for frame in frames.drain(..) {
            pool.free(frame);
        }
    }
    count
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, second, rest @ ..] = &arguments[..] else {
        return Err("usage: afxdp_wire IF1 IF2 [SECONDS] [auto|native|copy|generic] [spin|sleep]".into());
    };
    let seconds = rest.first().map_or(Ok(10.0), |text| text.parse::<f64>())?;
    let xdp = match rest.get(1).map(String::as_str) {
        None | Some("auto") => XdpMode::Auto,
        Some("native") => XdpMode::Native,
        Some("copy") => XdpMode::Copy,
        Some("generic") => XdpMode::Generic,
        Some(other) => return Err(format!("no mode {other:?}").into()),
    };
    let sleepy = rest.get(2).is_some_and(|text| text == "sleep");
    let mut pool = UmemPool::new(UmemPool::SMALL_DEFAULT, UmemPool::LARGE_DEFAULT)?;
    let open = |interface: &str| {
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: the pointer is to a terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let spec = OpenPort {
            interface: interface.into(),
            index,
            shared: false,
            xdp,
            kind: IoKind::Afxdp,
            ours: false,
            tunnel: None,
            queues: 1,
        };
        let cache = std::sync::Arc::new(afxdp::SharedMaps::create()?);
        Ok::<Opened, Box<dyn std::error::Error>>(afxdp::open(&spec, &pool.handle(), PortId(0), &cache)?)
    };
    let (mut a, mut b) = (open(first)?, open(second)?);
    println!("{first}: {} ({}); {second}: {}", a.facts.mode, a.facts.reason, b.facts.mode);
    let mut fds: Vec<libc::pollfd> = Vec::new();
    for fd in a.port.fds().chain(b.port.fds()).collect::<Vec<RawFd>>() {
        fds.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    }
    let mut frames = Vec::with_capacity(64);
    let (start, end) = (Clock::now(), Clock::now() + Duration::from_secs_f64(seconds));
    let mut counts = [0_u64; 2];
    let mut now = start;
    while now < end {
        let time = Instant::from_nanos((now - start).as_nanos() as u64);
        let there = forward(time, &mut pool, &mut a.port, &mut b.port, &mut frames);
        let back = forward(time, &mut pool, &mut b.port, &mut a.port, &mut frames);
        counts[0] += there as u64;
        counts[1] += back as u64;
        if sleepy && there + back == 0 {
            // SAFETY: the pointer and length describe `fds`.
            unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as u64, 10) };
        }
        now = Clock::now();
    }
    println!(
        "{:.0} {:.0} frames/s; {:?} {:?}",
        counts[0] as f64 / seconds,
        counts[1] as f64 / seconds,
        a.control.stats(),
        b.control.stats()
    );
    Ok(())
}
