#!/bin/bash
# Builds or removes the namespaces and veths of one scenario; it forwards nothing itself.
#   topo.sh up l2|vxlan|vxlan-plain|vtep|fip      topo.sh down
set -euo pipefail
. "$(dirname "$0")/env.sh"

new_ns() { ip netns add "$NS$1"; inns "$1" ip link set lo up
           inns "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; }

# link A ifA macA  B ifB macB: a veth with one end in each namespace.
# GRO is on so that both ends have a NAPI context (XDP redirect into a veth needs one).
link() {
  ip link add "$2" netns "$NS$1" address "$3" type veth peer name "$5" netns "$NS$4" address "$6"
  inns "$1" ip link set "$2" up; inns "$4" ip link set "$5" up
  inns "$1" ethtool -K "$2" gro on; inns "$4" ethtool -K "$5" gro on
}

# ivm H R: iVM H attached to rVM R by the veth  H:eth0 <-> R:p-H
ivm() { local mac="MAC_$1"; link "$1" eth0 "${!mac}" "$2" "p-$1" "${MAC_GW:-02:00:00:00:00:${1#h}f}"; }
addr() { inns "$1" ip addr add "$3" dev "$2"; }
mtu()  { inns "$1" ip link set "$2" mtu "$3"; }

# cut RVM: its underlay NIC sends plain frames of 1500 bytes, each with its checksum, as a cloud NIC without tunnel
# offloads does; GRO may still coalesce incoming frames.
cut()  { local o; for o in tx tso gso tx-udp_tnl-segmentation tx-udp_tnl-csum-segmentation tx-udp-segmentation; do
           inns "$1" ethtool -K under $o off >/dev/null 2>&1 || :; done; }

up() {
  down
  case "$1" in
  l2)
    new_ns r1; new_ns h1; new_ns h3
    ivm h1 r1; ivm h3 r1
    addr h1 eth0 $IP_h1/24; addr h3 eth0 $IP_h3/24 ;;
  vxlan|vxlan-plain)
    new_ns r1; new_ns r2; new_ns h1; new_ns h2
    ivm h1 r1; ivm h2 r2
    link r1 under $MAC_r1 r2 under $MAC_r2
    addr h1 eth0 $IP_h1/24; addr h2 eth0 $IP_h2/24
    addr r1 under $IP_r1/16; addr r2 under $IP_r2/16
    mtu h1 eth0 1450; mtu h2 eth0 1450
    [ "$1" = vxlan ] || { cut r1; cut r2; } ;;
  vtep)                                   # one switch only: r2 is a traffic source and a counter
    new_ns r1; new_ns r2; new_ns h1
    ivm h1 r1
    link r1 under $MAC_r1 r2 under $MAC_r2
    addr h1 eth0 $IP_h1/24; addr r1 under $IP_r1/16; addr r2 under $IP_r2/16
    mtu h1 eth0 1450 ;;
  fip)
    new_ns r1; new_ns r2; new_ns h2; new_ns ext; new_ns net
    MAC_GW=$MAC_gw ivm h2 r2
    link r1 under $MAC_r1 net r1 02:00:00:00:01:01      # the provider's network is a plain bridge
    link r2 under $MAC_r2 net r2 02:00:00:00:01:02
    link ext eth0 $MAC_ext net ext 02:00:00:00:01:03
    inns net sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-arptables=0
    inns net ip link add fabric type bridge mcast_snooping 0
    for p in r1 r2 ext; do inns net ip link set $p master fabric; done
    inns net ip link set fabric up
    addr r1 under $IP_r1/16; addr r2 under $IP_r2/16; addr ext eth0 $IP_ext/16
    addr h2 eth0 $PRIV_h2/24; mtu h2 eth0 1450
    inns h2 ip route add default via $PRIV_gw
    inns h2 ip neigh add $PRIV_gw lladdr $MAC_gw dev eth0 nud permanent ;;
  *) die "unknown scenario $1" ;;
  esac
}

down() { local n; for n in h1 h2 h3 r1 r2 ext net; do has_ns $n && ip netns del "$NS$n"; done; return 0; }

case "${1:-}" in up) up "${2:?scenario}";; down) down;; *) die "usage: topo.sh up SCENARIO | down";; esac
