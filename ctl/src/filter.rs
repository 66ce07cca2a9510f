//! Capture filters: the common part of pcap-filter(7), compiled to a program for the engine.
//!
//! ```text
//! filter    = term { ("and" | "&&" | "or" | "||") term }          equal precedence, left to right, as tcpdump has it
//! term      = ("not" | "!") term | "(" filter ")" | primitive
//! primitive = arp | ip | ip6 | icmp | icmp6 | tcp | udp
//!           | [tcp | udp] [src | dst] port N | portrange N-M
//!           | [src | dst] host ADDRESS | net PREFIX
//!           | ether [src | dst] [host] MAC | vlan [VID] | vni N
//! ```

use std::net::IpAddr;

use engine::command::{IpPrefix, Vni};
use engine::watch::filter::{End, Filter, Op, Test};

use crate::model::Mac;

/// The syntax, for users whose filter was refused.
pub const HELP: &str = "write it as tcpdump does: arp, ip, ip6, icmp, icmp6, tcp, udp, [src|dst] host, net, port, \
portrange, ether, vlan, vni; and, or, not, parentheses";

/// Parses a filter. An empty text matches every frame.
///
/// # Errors
/// The error in the filter.
pub fn parse(text: &str) -> Result<Filter, String> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('!', " ! ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, ops: Vec::new(), depth: 0 };
    if !words.is_empty() {
        parser.filter()?;
    }
    if let Some(word) = parser.words.first() {
        return Err(format!("\"{word}\" is not expected there"));
    }
    Filter::new(parser.ops).ok_or_else(|| "it is too long".to_owned())
}

/// The deepest nesting of parentheses and negations.
const DEPTH_MAX: usize = 32;

struct Parser<'a> {
    words: &'a [&'a str],
    ops: Vec<Op>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn take(&mut self, words: &[&str]) -> Option<&'a str> {
        let found = self.words.first().filter(|word| words.contains(word))?;
        self.next();
        Some(found)
    }

    fn argument(&mut self, of: &str) -> Result<&'a str, String> {
        self.next().ok_or_else(|| format!("\"{of}\" needs something after it"))
    }

    fn filter(&mut self) -> Result<(), String> {
        self.term()?;
        while let Some(word) = self.take(&["and", "&&", "or", "||"]) {
            self.term()?;
            self.ops.push(if matches!(word, "and" | "&&") { Op::And } else { Op::Or });
        }
        Ok(())
    }

    fn term(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("it is nested too deep".to_owned());
        }
        if self.take(&["not", "!"]).is_some() {
            self.term()?;
            self.ops.push(Op::Not);
        } else if self.take(&["("]).is_some() {
            self.filter()?;
            self.take(&[")"]).ok_or("a parenthesis is not closed")?;
        } else {
            self.primitive()?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn test(&mut self, test: Test) {
        self.ops.push(Op::Test(test));
    }

    fn primitive(&mut self) -> Result<(), String> {
        let word = self.next().ok_or("something is missing at its end")?;
        match word {
            "arp" => self.test(Test::EtherType(0x0806)),
            "ip" => self.test(Test::EtherType(0x0800)),
            "ip6" => self.test(Test::EtherType(0x86dd)),
            "icmp" => self.protocol(0x0800, 1),
            "icmp6" => self.protocol(0x86dd, 58),
            "tcp" | "udp" => {
                self.test(Test::Protocol(if word == "tcp" { 6 } else { 17 }));
                let mut ahead = self.words.iter().filter(|w| !matches!(**w, "src" | "dst"));
                let direct =
                    self.words.first().is_some_and(|w| matches!(*w, "src" | "dst" | "port" | "portrange"));
                if direct && ahead.next().is_some_and(|w| matches!(*w, "port" | "portrange")) {
                    let end = self.end();
                    let what = self.argument(word)?;
                    self.end_test(end, what)?;
                    self.ops.push(Op::And);
                }
            }
            "src" | "dst" => {
                let end = if word == "src" { End::Src } else { End::Dst };
                let what = self.argument(word)?;
                self.end_test(end, what)?;
            }
            "host" | "net" | "port" | "portrange" => self.end_test(End::Either, word)?,
            "ether" => {
                let end = self.end();
                self.take(&["host"]);
                let mac = self.argument("ether")?;
                let Mac(mac) = mac.parse().map_err(|_| format!("{mac} is not a MAC address"))?;
                self.test(Test::Mac(end, mac));
            }
            "vlan" => {
                let vid = self.words.first().and_then(|w| w.parse::<u16>().ok());
                if vid.is_some_and(|vid| vid > 4094) {
                    return Err("a VLAN is a number from 0 to 4094".to_owned());
                }
                if vid.is_some() {
                    self.next();
                }
                self.test(Test::Vlan(vid));
            }
            "vni" => {
                let vni = self.argument(word)?;
                let vni = vni.parse().ok().and_then(Vni::new);
                self.test(Test::Vni(vni.ok_or("a VNI is a number below 16777216")?));
            }
            _ => return Err(format!("\"{word}\" is not understood")),
        }
        Ok(())
    }

    fn protocol(&mut self, ethertype: u16, proto: u8) {
        self.ops.extend([Op::Test(Test::EtherType(ethertype)), Op::Test(Test::Protocol(proto)), Op::And]);
    }

    fn end(&mut self) -> End {
        match self.take(&["src", "dst"]) {
            Some("src") => End::Src,
            Some(_) => End::Dst,
            None => End::Either,
        }
    }

    /// Parses the rest of a test after `src`, `dst` or nothing.
    fn end_test(&mut self, end: End, what: &str) -> Result<(), String> {
        let argument = self.argument(what)?;
        let test = match what {
            "host" => {
                let ip: IpAddr = argument.parse().map_err(|_| format!("{argument} is not an IP address"))?;
                Test::Address(end, IpPrefix::host(ip))
            }
            "net" => {
                let net: ipnet::IpNet =
                    argument.parse().map_err(|_| format!("{argument} is not a prefix such as 10.0.0.0/8"))?;
                Test::Address(end, crate::model::prefix(net))
            }
            "port" => {
                let port = argument.parse().map_err(|_| format!("{argument} is not a port number"))?;
                Test::Port(end, port, port)
            }
            "portrange" => {
                let range =
                    argument.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                let (first, last) =
                    range.ok_or_else(|| format!("{argument} is not a range such as 80-90"))?;
                Test::Port(end, first, last)
            }
            _ => return Err(format!("\"{what}\" is not understood; use host, net, port or portrange")),
        };
        self.test(test);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_tcpdump_reads_them() {
        for text in [
            "",
            "arp",
            "tcp",
            "tcp port 80",
            "tcp dst port 80 and src host 10.0.0.1",
            "not (udp or icmp) and net 10.0.0.0/8",
            "!arp && !ip6",
            "ether src 02:00:00:00:00:01 or ether host 02:00:00:00:00:02",
            "vlan 10 and vni 100",
            "vlan and icmp6",
            "tcp and port 80",
            "udp src portrange 1000-2000",
            "host fd00::1",
        ] {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text));
        }
        for (text, says) in [
            ("frobnicate", "frobnicate"),
            ("tcp port", "port"),
            ("tcp port x", "x"),
            ("host 10.0.0", "10.0.0"),
            ("net 10.0.0.0/99", "prefix"),
            ("(tcp", "parenthesis"),
            ("tcp)", ")"),
            ("tcp or", "missing"),
            ("and tcp", "and"),
            ("tcp udp", "udp"),
            ("src tcp 5", "tcp"),
            ("vlan 5000", "4094"),
            ("vni 99999999", "VNI"),
            ("ether 1:2", "MAC"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(parse(&"(".repeat(10_000)).is_err());
        assert!(parse(&"not ".repeat(10_000)).is_err());
        assert!(parse(&vec!["tcp"; 1000].join(" or ")).is_err());
    }

    /// Operators have equal precedence and associate from the left: `a or b and c` is `(a or b) and c`.
    #[test]
    fn precedence_is_tcpdumps() {
        assert_eq!(parse("tcp or udp and arp"), parse("(tcp or udp) and arp"));
        assert_ne!(parse("tcp or udp and arp"), parse("tcp or (udp and arp)"));
        assert_eq!(parse("not tcp and udp"), parse("(not tcp) and udp"));
    }
}
