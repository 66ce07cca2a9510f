//! Port I/O on real interfaces. Needs root; makes network namespaces named `ivio-*` and nothing else.
#![allow(dead_code, reason = "the room under test has a wider face than its tests use")]

#[path = "../src/ports/mod.rs"]
mod ports;
