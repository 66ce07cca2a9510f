//! The system tests: real interfaces, real sockets, the kernel as peer. Root only.
//! Tests are named after the seed check they prove, where there is one.

mod attacks;
mod cache;
mod cli;
mod closed;
mod counters;
mod demo;
mod dhcp;
mod doors;
mod faults;
mod floating_ip;
mod growth;
mod guests;
mod harness;
mod l2;
mod lanes;
mod libvirt;
mod libvirt_hosts;
mod libvirt_nics;
mod libvirt_schedule;
mod lifecycle;
mod mtu;
mod nested;
mod operate;
mod own;
mod policy;
mod policy_routing;
mod privileges;
mod restart;
mod router;
mod rvm_guest;
mod topology;
mod uplink;
mod vxlan;
mod watch;
mod workers;
