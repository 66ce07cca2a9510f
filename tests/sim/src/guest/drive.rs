//! What each activity of a machine does when time has passed.

use std::net::IpAddr;

use smoltcp::iface::{Interface, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress};

use super::{Client, Conn, Datagrams, HELLO, Label, Ping, Verifier, fill};

impl Ping {
    pub(super) fn drive(
        &mut self,
        now_ns: u64,
        sockets: &mut SocketSet<'_>,
        iface: &Interface,
        label: Label,
    ) -> bool {
        if self.report.done {
            return false;
        }
        let s = sockets.get_mut::<icmp::Socket<'_>>(self.socket);
        let mut busy = false;
        while s.can_recv() {
            let Ok((data, _)) = s.recv() else { break };
            busy = true;
            // Both families: type, code, checksum, identifier, sequence, data.
            if data.len() < 8 || !matches!(data[0], 0 | 129) {
                continue;
            }
            let seq = u16::from_be_bytes([data[6], data[7]]);
            let Some(&at) = self.sent_at.get(&seq) else { continue };
            if data[8..] != fill(label, u64::from(seq) * 16, self.len)[..] {
                self.report.bad += 1;
            } else if self.answered.insert(seq, ()).is_some() {
                self.report.duplicates += 1;
            } else {
                self.report.received += 1;
                self.report.rtt_sum_ns += now_ns - at;
            }
        }
        if self.report.sent < u64::from(self.count) && now_ns >= self.next_ns && s.can_send() {
            let seq = self.report.sent as u16;
            let data = fill(label, u64::from(seq) * 16, self.len);
            let caps = ChecksumCapabilities::default();
            let dst: IpAddress = self.dst.into();
            match self.dst {
                IpAddr::V4(_) => {
                    let repr = Icmpv4Repr::EchoRequest { ident: self.ident, seq_no: seq, data: &data };
                    if let Ok(b) = s.send(repr.buffer_len(), dst) {
                        repr.emit(&mut Icmpv4Packet::new_unchecked(b), &caps);
                    }
                }
                IpAddr::V6(d) => {
                    let repr = Icmpv6Repr::EchoRequest { ident: self.ident, seq_no: seq, data: &data };
                    if let Ok(b) = s.send(repr.buffer_len(), dst) {
                        let src = iface.get_source_address_ipv6(&d);
                        repr.emit(&src, &d, &mut Icmpv6Packet::new_unchecked(b), &caps);
                    }
                }
            }
            self.sent_at.insert(seq, now_ns);
            self.report.sent += 1;
            self.next_ns = now_ns + self.interval_ns;
            busy = true;
        }
        let all = self.report.received == u64::from(self.count);
        if all || now_ns >= self.deadline_ns {
            self.report.done = true;
            self.report.failed = !all;
            // Datagrams still queued in the socket would keep asking for a neighbour that does not exist.
            drop(sockets.remove(self.socket));
        }
        busy
    }
}

impl Datagrams {
    pub(super) fn drive(&mut self, now_ns: u64, sockets: &mut SocketSet<'_>, label: Label) -> bool {
        if self.report.done {
            return false;
        }
        let s = sockets.get_mut::<udp::Socket<'_>>(self.socket);
        let mut busy = false;
        while s.can_recv() {
            let Ok((data, _)) = s.recv() else { break };
            busy = true;
            let seq = data.get(..4).map_or(0, |b| u32::from_be_bytes(b.try_into().expect("four bytes")));
            if data.len() != self.len || data[4..] != fill(label, u64::from(seq) * 16, self.len - 4)[..] {
                self.report.bad += 1;
            } else if self.answered.insert(seq, ()).is_some() {
                self.report.duplicates += 1;
            } else {
                self.report.received += 1;
            }
        }
        while self.report.sent < u64::from(self.count) && now_ns >= self.next_ns && s.can_send() {
            let seq = self.report.sent as u32;
            let mut data = seq.to_be_bytes().to_vec();
            data.extend(fill(label, u64::from(seq) * 16, self.len - 4));
            if s.send_slice(&data, self.dst).is_err() {
                break;
            }
            self.report.sent += 1;
            self.next_ns += self.interval_ns;
            busy = true;
        }
        let all = self.report.received == u64::from(self.count);
        if all || now_ns >= self.deadline_ns {
            self.report.done = true;
            self.report.failed = !all;
            // Datagrams still queued in the socket would keep asking for a neighbour that does not exist.
            drop(sockets.remove(self.socket));
        }
        busy
    }
}

impl Conn {
    pub(super) fn drive(
        &mut self,
        port: u16,
        sockets: &mut SocketSet<'_>,
        label: Label,
        served: &mut u64,
        served_bad: &mut u64,
    ) -> bool {
        let s = sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        if !s.is_open() {
            self.hello.clear();
            (self.up_left, self.down, self.down_sent, self.check) = (0, 0, 0, Verifier::default());
            return s.listen(port).is_ok();
        }
        let mut busy = false;
        let mut buf = [0; 4096];
        while s.can_recv() {
            let want = if self.hello.len() < 12 { 12 - self.hello.len() } else { buf.len() };
            let Ok(n) = s.recv_slice(&mut buf[..want]) else { break };
            if n == 0 {
                break;
            }
            busy = true;
            if self.hello.len() < 12 {
                self.hello.extend(&buf[..n]);
                if self.hello.len() == 12 {
                    let word =
                        |at: usize| u32::from_be_bytes(self.hello[at..at + 4].try_into().expect("four"));
                    if self.hello[..4] != HELLO {
                        *served_bad += 1;
                        s.abort();
                        return true;
                    }
                    (self.up_left, self.down) = (u64::from(word(4)), u64::from(word(8)));
                }
            } else {
                let bad = self.check.bad;
                self.check.feed(&buf[..n]);
                self.up_left = self.up_left.saturating_sub(n as u64);
                *served += n as u64;
                *served_bad += self.check.bad - bad;
            }
        }
        while self.hello.len() == 12 && self.down_sent < self.down && s.can_send() {
            let len = (self.down - self.down_sent).min(4096) as usize;
            let Ok(n) = s.send_slice(&fill(label, self.down_sent, len)) else { break };
            self.down_sent += n as u64;
            busy |= n != 0;
            if n == 0 {
                break;
            }
        }
        if s.may_send() && !s.may_recv() && self.down_sent == self.down {
            s.close();
            busy = true;
        }
        busy
    }
}

impl Client {
    pub(super) fn drive(&mut self, now_ns: u64, sockets: &mut SocketSet<'_>, label: Label) -> bool {
        if self.report.done {
            return false;
        }
        let s = sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        let mut busy = false;
        if s.may_send() {
            if !self.hello.is_empty()
                && let Ok(n) = s.send_slice(&self.hello)
            {
                self.hello.drain(..n);
                busy |= n != 0;
            }
            while self.hello.is_empty() && self.up_sent < self.up && s.can_send() {
                let len = (self.up - self.up_sent).min(4096) as usize;
                let Ok(n) = s.send_slice(&fill(label, self.up_sent, len)) else { break };
                self.up_sent += n as u64;
                busy |= n != 0;
                if n == 0 {
                    break;
                }
            }
        }
        let mut buf = [0; 4096];
        while s.can_recv() {
            let Ok(n) = s.recv_slice(&mut buf) else { break };
            if n == 0 {
                break;
            }
            self.check.feed(&buf[..n]);
            busy = true;
        }
        let acked = self.up_sent - (s.send_queue() as u64).min(self.up_sent);
        self.report.sent = acked;
        self.report.received = self.check.pos - self.check.bad.min(self.check.pos);
        self.report.bad = self.check.bad;
        let all = self.hello.is_empty() && acked == self.up && self.check.pos == self.down;
        if all && s.send_queue() == 0 {
            s.close();
            self.report.done = true;
            busy = true;
        } else if !s.is_open() || now_ns >= self.deadline_ns {
            s.abort();
            self.report.done = true;
            self.report.failed = true;
            busy = true;
        }
        busy
    }
}
