//! The daemon's metrics for Prometheus: OpenMetrics text, and the older Prometheus format for clients that do not ask
//! for OpenMetrics. They come from the answer to `status`, so both show the same values. Labels are names from the
//! configuration and names of drop reasons, so the configuration bounds their number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::api::{PeerRow, PeerState, ProblemKind, Status};

/// The content type of [`render_plain`]'s text.
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders the metrics as OpenMetrics text.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut registry = Registry::with_prefix("ivs");
    registry.register_collector(Box::new(Snapshot(status.clone())));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

/// Renders the metrics in the older Prometheus format, in which the description of a counter has the same name as its
/// samples.
#[must_use]
pub fn render_plain(status: &Status) -> String {
    let text = render(status);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let counters: BTreeSet<&str> = types.collect();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", what, name, rest] if counters.contains(name) => {
                plain += &format!("# {what} {name}_total {rest}\n");
            }
            _ => plain += &format!("{line}\n"),
        }
    }
    plain
}

#[derive(Debug)]
struct Snapshot(Status);

/// The sum of all mappings of one floating IP.
struct FloatingSum {
    resolved: Option<bool>,
    /// Packets in and out, bytes in and out.
    volumes: [u64; 4],
}

/// One metric, before its samples are written.
struct Family<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
    name: &'static str,
    help: &'static str,
}

type Labels<'l> = Vec<(&'static str, &'l str)>;

impl Family<'_, '_> {
    fn counters<'l>(&mut self, samples: impl IntoIterator<Item = (Labels<'l>, u64)>) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges<'l>(&mut self, samples: impl IntoIterator<Item = (Labels<'l>, f64)>) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let s = &self.0;
        let mut family = |name, help, write: &dyn Fn(Family<'_, '_>) -> fmt::Result| {
            write(Family { encoder: &mut encoder, name, help })
        };
        let truth = |is: bool| f64::from(u8::from(is));
        family("info", "The daemon; always 1", &|mut f| {
            f.gauges([(vec![("name", s.name.as_str()), ("version", s.version.as_str())], 1.0)])
        })?;
        family("uptime_seconds", "Time since the daemon started", &|mut f| {
            f.gauges([(vec![], s.uptime as f64)])
        })?;
        family("warnings", "Problems that need attention, by kind: `ivctl status`", &|mut f| {
            let count = |kind| s.problems.iter().filter(|p| p.kind == kind).count() as f64;
            f.gauges(ProblemKind::ALL.iter().map(|&kind| (vec![("kind", kind.name())], count(kind))))
        })?;

        let port = |p: &'_ crate::api::PortRow| -> (String, String) {
            (p.ifname.clone(), p.network.clone().unwrap_or_default())
        };
        let ports: Vec<((String, String), &crate::api::PortRow)> =
            s.ports.iter().map(|p| (port(p), p)).collect();
        let of_ports = |value: fn(&crate::api::PortRow) -> u64| {
            ports
                .iter()
                .map(|((port, network), row)| {
                    (vec![("port", port.as_str()), ("network", network.as_str())], value(row))
                })
                .collect::<Vec<_>>()
        };
        family("port_up", "Whether the port forwards and has carrier", &|mut f| {
            let up = ports.iter().map(|((port, network), row)| {
                (vec![("port", port.as_str()), ("network", network.as_str())], truth(row.operstate == "UP"))
            });
            f.gauges(up.collect::<Vec<_>>())
        })?;
        family(
            "port_cut_off",
            "Whether the port is isolated: quarantined by its owner, or disabled by a guard",
            &|mut f| {
                let cut = ports.iter().flat_map(|((port, network), row)| {
                    let labels =
                        |why| vec![("port", port.as_str()), ("network", network.as_str()), ("why", why)];
                    let by_guard = row.state == "err-disabled";
                    [
                        (labels("quarantined"), truth(row.quarantine)),
                        (labels("err-disabled"), truth(by_guard)),
                    ]
                });
                f.gauges(cut.collect::<Vec<_>>())
            },
        )?;
        family("port_rx_packets", "Frames received from the port", &|mut f| {
            f.counters(of_ports(|p| p.stats64.rx.packets))
        })?;
        family("port_rx_bytes", "Bytes received from the port", &|mut f| {
            f.counters(of_ports(|p| p.stats64.rx.bytes))
        })?;
        family("port_tx_packets", "Frames sent to the port", &|mut f| {
            f.counters(of_ports(|p| p.stats64.tx.packets))
        })?;
        family("port_tx_bytes", "Bytes sent to the port", &|mut f| {
            f.counters(of_ports(|p| p.stats64.tx.bytes))
        })?;
        family("drops", "Dropped frames by reason: `ivctl drops`", &|mut f| {
            f.counters(
                s.drops
                    .iter()
                    .map(|d| (vec![("port", d.port.as_str()), ("reason", d.reason.as_str())], d.count)),
            )
        })?;

        let of_networks = |value: fn(&crate::api::NetworkRow) -> f64| {
            s.networks.iter().map(move |n| (vec![("network", n.name.as_str())], value(n)))
        };
        family("fdb_entries", "MAC addresses known on the network", &|mut f| {
            f.gauges(of_networks(|n| f64::from(n.fdb.unwrap_or(0))))
        })?;
        family("fdb_limit", "The most MAC addresses that the network learns", &|mut f| {
            f.gauges(of_networks(|n| f64::from(n.fdb_max)))
        })?;

        let peers = || s.peers.iter().filter(|p| p.state != PeerState::ThisRvm);
        let of_peers = |value: fn(&PeerRow) -> u64| {
            peers().map(move |p| (vec![("peer", p.name.as_str())], value(p))).collect::<Vec<_>>()
        };
        family(
            "peer_up",
            "Whether the peer answers, and accepts packets of at least one network",
            &|mut f| {
                let up = |p: &PeerRow| truth(p.state == PeerState::Up);
                f.gauges(peers().map(|p| (vec![("peer", p.name.as_str())], up(p))))
            },
        )?;
        family("peer_state", "1 for the peer's present state, otherwise 0: `ivctl peer show`", &|mut f| {
            let states = PeerState::ALL.into_iter().filter(|state| *state != PeerState::ThisRvm);
            let each = |p| states.clone().map(move |state| (p, state));
            f.gauges(peers().flat_map(each).map(|(p, state): (&PeerRow, PeerState)| {
                (vec![("peer", p.name.as_str()), ("state", state.name())], truth(p.state == state))
            }))
        })?;
        family(
            "peer_answered_seconds",
            "Time since the peer's last answer; absent if it never answered",
            &|mut f| {
                f.gauges(peers().filter_map(|p| Some((vec![("peer", p.name.as_str())], p.answered? as f64))))
            },
        )?;
        family("peer_resolved", "Whether the underlay's next hop to the peer is known", &|mut f| {
            f.gauges(peers().map(|p| (vec![("peer", p.name.as_str())], truth(p.resolved))))
        })?;
        family("peer_refused_networks", "Networks whose packets from us the peer refuses", &|mut f| {
            f.gauges(peers().map(|p| (vec![("peer", p.name.as_str())], p.refuses.len() as f64)))
        })?;
        family("peer_tx_frames", "Frames sent to the peer", &|mut f| f.counters(of_peers(|p| p.tx)))?;
        family("peer_rx_frames", "Frames received from the peer", &|mut f| f.counters(of_peers(|p| p.rx)))?;
        family("peer_tx_bytes", "Bytes sent to the peer, without the tunnel's headers", &|mut f| {
            f.counters(of_peers(|p| p.tx_bytes))
        })?;
        family("peer_rx_bytes", "Bytes received from the peer, without the tunnel's headers", &|mut f| {
            f.counters(of_peers(|p| p.rx_bytes))
        })?;

        // Several mappings may share an address by port; the metrics add them up.
        let mut floating: BTreeMap<(String, &str), FloatingSum> = BTreeMap::new();
        for row in &s.floating {
            let key = (row.ip.to_string(), row.network.as_str());
            let sum = floating.entry(key).or_insert(FloatingSum { resolved: None, volumes: [0; 4] });
            // Only the gateway and the rVM that translates know the next hop of its packets.
            if row.here || row.inside.is_some() {
                sum.resolved = Some(sum.resolved.unwrap_or(true) && row.resolved);
            }
            let volumes = [row.packets_in, row.packets_out, row.bytes_in, row.bytes_out];
            sum.volumes.iter_mut().zip(volumes).for_each(|(sum, n)| *sum += n);
        }
        let of_floating = |at: usize| {
            floating.iter().map(move |((ip, network), sum)| {
                (vec![("ip", ip.as_str()), ("network", *network)], sum.volumes[at])
            })
        };
        family(
            "floating_resolved",
            "Whether the next hop of the floating IP's packets is known, on its gateway and where the switch \
             translates",
            &|mut f| {
                let known = floating.iter().filter_map(|((ip, network), sum)| {
                    let labels = vec![("ip", ip.as_str()), ("network", *network)];
                    Some((labels, truth(sum.resolved?)))
                });
                f.gauges(known)
            },
        )?;
        family("floating_in_packets", "Packets to the floating IP", &|mut f| f.counters(of_floating(0)))?;
        family("floating_out_packets", "Packets from the floating IP", &|mut f| f.counters(of_floating(1)))?;
        family("floating_in_bytes", "Bytes to the floating IP", &|mut f| f.counters(of_floating(2)))?;
        family("floating_out_bytes", "Bytes from the floating IP", &|mut f| f.counters(of_floating(3)))?;

        let closed: Vec<String> = s.closed.addresses.iter().map(ToString::to_string).collect();
        family(
            "reality_closed",
            "Whether the address is closed to the rVM's own kernel while the daemon is away",
            &|mut f| {
                let state = truth(s.closed.in_place);
                f.gauges(closed.iter().map(|address| (vec![("address", address.as_str())], state)))
            },
        )?;

        let steered = s.steered.iter().flat_map(|s| {
            [("tunnel", s.tunnel), ("reality", s.reality), ("own", s.own), ("kernel", s.passed)]
        });
        family(
            "steered_frames",
            "Frames that arrived on the uplink, by destination: the switch (tunnel packets, or packets to a \
             reality address), the kernel (answers to its own connections there), or the kernel (all others)",
            &|mut f| f.counters(steered.clone().map(|(to, n)| (vec![("to", to)], n))),
        )?;
        family(
            "own_flows",
            "Flows of the rVM's own kernel on reality addresses whose answers stay with the kernel",
            &|mut f| f.gauges(s.steered.iter().map(|s| (vec![], f64::from(s.own_flows)))),
        )?;

        let numbers: Vec<String> = (0..s.workers.len()).map(|n| n.to_string()).collect();
        let of_workers = || numbers.iter().map(|n| vec![("worker", n.as_str())]).zip(&s.workers);
        family("worker_busy_ratio", "Share of the last second spent moving frames", &|mut f| {
            f.gauges(of_workers().map(|(labels, w)| (labels, w.busy)))
        })?;
        family("worker_frames", "Frames that the worker received", &|mut f| {
            f.counters(of_workers().map(|(labels, w)| (labels, w.frames)))
        })?;
        family("worker_sleeps", "How often the worker went to sleep", &|mut f| {
            f.counters(of_workers().map(|(labels, w)| (labels, w.sleeps)))
        })?;

        let frames = &s.frames;
        let kinds = [
            ("rx", frames.rx),
            ("replicated", frames.replicated),
            ("originated", frames.originated),
            ("segmented", frames.segmented),
            ("tx", frames.tx),
            ("dropped", frames.dropped),
            ("punted", frames.punted),
            ("consumed", frames.consumed),
            ("coalesced", frames.coalesced),
        ];
        family("frames", "Frames of the whole switch, by outcome", &|mut f| {
            f.counters(kinds.iter().map(|(kind, n)| (vec![("kind", *kind)], *n)))
        })?;
        family("icmp_errors", "ICMP errors and TCP resets sent to senders of packets, by kind", &|mut f| {
            f.counters(s.icmp_errors.iter().map(|(kind, n)| (vec![("kind", kind.as_str())], *n)))
        })?;
        family("icmp_errors_limited", "ICMP errors that the rate limit suppressed", &|mut f| {
            f.counters([(vec![], s.icmp_errors_limited)])
        })?;
        family("frames_queued", "Frames waiting in transmit queues", &|mut f| {
            f.gauges([(vec![], frames.queued as f64)])
        })
    }
}
