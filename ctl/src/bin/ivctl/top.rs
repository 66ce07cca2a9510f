//! `ivctl top`: live rates per port, network, peer and floating IP, and how busy the workers are.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, Instant};

use ctl::api::{FloatingRow, PeerState, Stats64, Status};
use ctl::cli::words::human;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Gauge, Paragraph};
use serde_json::json;

use crate::client::Client;
use crate::output::{Failure, Paint, Printer, Table, plain};

/// The arguments of `ivctl top`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Seconds between two measurements
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = crate::seconds)]
    interval: f64,
    /// Measure one interval, print the result, and end; this is also the behaviour without a terminal
    #[arg(long)]
    once: bool,
}

/// Shows the screen until the user presses `q`.
pub fn run(args: &Args, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let interval = Duration::from_secs_f64(args.interval.max(0.1));
    let before = look(client)?;
    if args.once || printer.is_json() || !stdout().is_terminal() {
        std::thread::sleep(interval);
        let screen = Screen::new(&before, &look(client)?);
        if printer.is_json() {
            printer.json(&screen.json())?;
        } else {
            printer.text(&screen.plain(printer))?;
        }
        return Ok(0);
    }
    let mut terminal = ratatui::try_init()?;
    let result = live(&mut terminal, interval, client, before);
    // In every case, restore the terminal.
    ratatui::restore();
    result.map(|()| 0)
}

fn live(
    terminal: &mut ratatui::DefaultTerminal,
    interval: Duration,
    client: &mut Client,
    mut before: (Instant, Status),
) -> Result<(), Failure> {
    // Show the first rates soon.
    let mut next = Instant::now() + interval.min(Duration::from_millis(300));
    let mut screen = Screen::new(&before, &before);
    let mut first = 0;
    loop {
        terminal.draw(|frame| screen.draw(frame, &mut first))?;
        let patience = next.saturating_duration_since(Instant::now());
        if event::poll(patience)? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    KeyCode::Down | KeyCode::Char('j') => first += 1,
                    KeyCode::Up | KeyCode::Char('k') => first = first.saturating_sub(1),
                    KeyCode::PageDown => first += 10,
                    KeyCode::PageUp => first = first.saturating_sub(10),
                    _ => {}
                },
                _ => {}
            }
            continue;
        }
        let now = look(client)?;
        screen = Screen::new(&before, &now);
        before = now;
        next = Instant::now() + interval;
    }
}

fn look(client: &mut Client) -> Result<(Instant, Status), Failure> {
    let status = client.call("status", json!({}))?;
    Ok((Instant::now(), status))
}

/// Frames and bits per second in both directions, and drops.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Rates {
    rx_pps: f64,
    rx_bps: f64,
    tx_pps: f64,
    tx_bps: f64,
    drops: f64,
}

impl Rates {
    fn add(&mut self, other: Self) {
        self.rx_pps += other.rx_pps;
        self.rx_bps += other.rx_bps;
        self.tx_pps += other.tx_pps;
        self.tx_bps += other.tx_bps;
        self.drops += other.drops;
    }

    fn cells(self) -> [String; 5] {
        [human(self.rx_pps), human(self.rx_bps), human(self.tx_pps), human(self.tx_bps), human(self.drops)]
    }
}

/// The contents of the screen, ready to be drawn or printed.
struct Screen {
    head: String,
    workers: Vec<(f64, f64)>,
    /// Kind, name, rates.
    rows: Vec<(&'static str, String, Rates)>,
    warnings: usize,
}

impl Screen {
    fn new((then, before): &(Instant, Status), (now, after): &(Instant, Status)) -> Self {
        let elapsed = now.duration_since(*then).as_secs_f64().max(0.001);
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / elapsed;
        let stats = |a: &Stats64, b: &Stats64| Rates {
            rx_pps: rate(a.rx.packets, b.rx.packets),
            rx_bps: 8.0 * rate(a.rx.bytes, b.rx.bytes),
            tx_pps: rate(a.tx.packets, b.tx.packets),
            tx_bps: 8.0 * rate(a.tx.bytes, b.tx.bytes),
            drops: rate(a.rx.dropped + a.tx.dropped, b.rx.dropped + b.tx.dropped),
        };
        let mut rows = Vec::new();
        let mut networks: BTreeMap<&str, Rates> = BTreeMap::new();
        for port in &after.ports {
            // A port that has just appeared has no rate yet.
            let was = before.ports.iter().find(|p| p.ifname == port.ifname).unwrap_or(port);
            let rates = stats(&was.stats64, &port.stats64);
            if let Some(network) = &port.network {
                networks.entry(network).or_default().add(rates);
            }
            rows.push(("port", plain(&port.ifname), rates));
        }
        rows.extend(networks.into_iter().map(|(name, rates)| ("network", plain(name), rates)));
        for peer in after.peers.iter().filter(|p| p.state != PeerState::ThisRvm) {
            let was = before.peers.iter().find(|p| p.name == peer.name).unwrap_or(peer);
            let rates = Rates {
                rx_pps: rate(was.rx, peer.rx),
                rx_bps: 8.0 * rate(was.rx_bytes, peer.rx_bytes),
                tx_pps: rate(was.tx, peer.tx),
                tx_bps: 8.0 * rate(was.tx_bytes, peer.tx_bytes),
                drops: 0.0,
            };
            rows.push(("peer", plain(&peer.name), rates));
        }
        for fip in &after.floating {
            let same = |f: &&FloatingRow| (f.ip, &f.network, &f.only) == (fip.ip, &fip.network, &fip.only);
            let was = before.floating.iter().find(same).unwrap_or(fip);
            let rates = Rates {
                rx_pps: rate(was.packets_in, fip.packets_in),
                rx_bps: 8.0 * rate(was.bytes_in, fip.bytes_in),
                tx_pps: rate(was.packets_out, fip.packets_out),
                tx_bps: 8.0 * rate(was.bytes_out, fip.bytes_out),
                drops: 0.0,
            };
            rows.push(("fip", fip.ip.to_string(), rates));
        }
        let frames = |n: usize| {
            let was = before.workers.get(n).map_or(0, |w| w.frames);
            after.workers.get(n).map_or(0.0, |w| rate(was, w.frames))
        };
        let workers = after.workers.iter().enumerate().map(|(n, w)| (w.busy, frames(n))).collect();
        let head = format!("{}  ivswitchd {}", plain(&after.name), plain(&after.version));
        Self { head, workers, rows, warnings: after.warnings.len() }
    }

    fn draw(&self, frame: &mut Frame<'_>, first: &mut usize) {
        let workers = u16::try_from(self.workers.len()).unwrap_or(u16::MAX).min(8);
        let areas =
            Layout::vertical([Constraint::Length(1), Constraint::Length(workers), Constraint::Min(2)]);
        let [head, busy, table] = areas.areas(frame.area());
        let warnings = match self.warnings {
            0 => String::new(),
            n => format!("   {n} warnings: `ivctl status`"),
        };
        let line = format!("{}{warnings}   q ends, arrows scroll", self.head);
        frame.render_widget(Line::styled(line, Style::new().add_modifier(Modifier::BOLD)), head);
        let lines = Layout::vertical(vec![Constraint::Length(1); workers.into()]).split(busy);
        for (n, ((share, pps), area)) in self.workers.iter().zip(lines.iter()).enumerate() {
            let label = format!("worker {n}: {:.1} % busy, {} frames/s", share * 100.0, human(*pps));
            frame.render_widget(Gauge::default().ratio(share.clamp(0.0, 1.0)).label(label), *area);
        }
        if self.rows.is_empty() {
            return frame.render_widget(
                Paragraph::new("no ports yet: `ivctl port add NAME --network NETWORK` adds one"),
                table,
            );
        }
        let lines = self.table().lines(Paint(false), table.width.into());
        let heads = lines.iter().take_while(|(row, _)| row.is_none()).count();
        let shown = usize::from(table.height).saturating_sub(heads);
        *first = (*first).min(lines.len().saturating_sub(heads + shown));
        let (bold, reversed) = (Modifier::BOLD, Modifier::REVERSED);
        let styled = |(row, text): &(Option<usize>, String)| match row {
            None => Line::styled(
                format!("{text:0$}", usize::from(table.width)),
                Style::new().add_modifier(reversed),
            ),
            Some(row) if self.rows[*row].2.drops > 0.0 => {
                Line::styled(text.clone(), Style::new().add_modifier(bold))
            }
            Some(_) => Line::from(text.clone()),
        };
        let visible = lines.iter().take(heads).chain(lines.iter().skip(heads + *first));
        frame.render_widget(Paragraph::new(visible.map(styled).collect::<Vec<_>>()), table);
    }

    fn table(&self) -> Table {
        let mut table =
            Table::new(&["KIND", "NAME", ">RX PPS", ">RX BIT/S", ">TX PPS", ">TX BIT/S", ">DROPS/S"]);
        for (kind, name, rates) in &self.rows {
            let [a, b, c, d, e] = rates.cells();
            table.row([(*kind).to_owned(), name.clone(), a, b, c, d, e]);
        }
        table
    }

    fn plain(&self, printer: &Printer) -> String {
        let mut text = format!("{}\n", self.head);
        for (n, (share, pps)) in self.workers.iter().enumerate() {
            text.push_str(&format!("worker {n}: {:.1} % busy, {} frames/s\n", share * 100.0, human(*pps)));
        }
        text + &self.table().render(printer.paint())
    }

    fn json(&self) -> serde_json::Value {
        let row = |(kind, name, r): &(&str, String, Rates)| {
            json!({ "kind": kind, "name": name, "rx_pps": r.rx_pps, "rx_bps": r.rx_bps, "tx_pps": r.tx_pps,
                "tx_bps": r.tx_bps, "drops_per_second": r.drops })
        };
        let workers: Vec<_> = self
            .workers
            .iter()
            .map(|(busy, pps)| json!({ "busy": busy, "frames_per_second": pps }))
            .collect();
        json!({ "workers": workers, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn two_looks() -> ((Instant, Status), (Instant, Status)) {
        let now = Instant::now();
        let before = crate::tests::status();
        let mut after = before.clone();
        after.ports[0].stats64.rx.packets += 2_000_000;
        after.ports[0].stats64.rx.bytes += 250_000_000;
        after.ports[1].stats64.tx.packets += 50;
        after.ports[1].stats64.rx.dropped += 20;
        after.peers[0].rx += 3000;
        after.peers[0].rx_bytes += 1_500_000;
        after.floating[0].bytes_out += 250_000;
        ((now, before), (now + Duration::from_secs(2), after))
    }

    #[test]
    fn rates_are_differences_per_second() {
        let (before, after) = two_looks();
        let screen = Screen::new(&before, &after);
        let of = |kind: &str, name: &str| screen.rows.iter().find(|r| r.0 == kind && r.1 == name).unwrap().2;
        let uplink = of("port", &after.1.ports[0].ifname);
        assert_eq!((uplink.rx_pps, uplink.rx_bps), (1e6, 1e9));
        let port = &after.1.ports[1];
        assert_eq!((of("port", &port.ifname).tx_pps, of("port", &port.ifname).drops), (25.0, 10.0));
        assert_eq!(of("network", port.network.as_ref().unwrap()).tx_pps, 25.0);
        let peer = of("peer", &after.1.peers[0].name);
        assert_eq!((peer.rx_pps, peer.rx_bps), (1500.0, 6e6));
        assert_eq!(of("fip", "56.0.0.11").tx_bps, 1e6);
    }

    #[test]
    fn the_screen_is_drawn_at_any_size() {
        let (before, after) = two_looks();
        let screen = Screen::new(&before, &after);
        for (width, height) in [(100, 30), (80, 24), (20, 5), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let mut first = 99;
            terminal.draw(|frame| screen.draw(frame, &mut first)).unwrap();
            if width < 80 {
                continue;
            }
            let text = terminal.backend().to_string();
            for word in ["RX PPS", "worker 0", "1.00M", "1.00G", "q ends"] {
                assert!(text.contains(word), "{word}: {text}");
            }
            assert_eq!(first, 0, "there is nothing to scroll to");
        }
    }

    /// The longest names are shown in full, however narrow the terminal is.
    #[test]
    fn names_are_whole() {
        let (mut before, mut after) = two_looks();
        let name = "r".repeat(63);
        (before.1.peers[0].name, after.1.peers[0].name) = (name.clone(), name.clone());
        let screen = Screen::new(&before, &after);
        for width in [80, 130] {
            let mut terminal = Terminal::new(TestBackend::new(width, 30)).unwrap();
            terminal.draw(|frame| screen.draw(frame, &mut 0)).unwrap();
            let text = terminal.backend().to_string();
            assert!(text.contains(&name) && text.contains("6.00M"), "{width}: {text}");
        }
        assert!(screen.table().render(Paint(false)).contains(&name));
    }
}
