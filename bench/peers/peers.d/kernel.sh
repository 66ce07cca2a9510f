#!/bin/bash
# Peer "kernel": Linux bridge + kernel vxlan + nftables NAT + ip rule source routing.
#   STEER=cpu (default)  the switch's own veth ends poll in kernel threads pinned to SW_CPU; a veth uses
#                        NAPI only for XDP frames and for skbs that GRO may merge, so this moves
#                        `gen -m live` traffic but neither TCP nor `gen -m pkt`
#   STEER=rps            receive packet steering to SW_CPU: moves everything
#   STEER=none           everything runs in the sender's softirq, on the sender's core
#   NAT=ct (default) conntrack dnat/snat;  NAT=stateless  header rewrite without conntrack
set -euo pipefail
. "$(dirname "$0")/../env.sh"
STEER="${STEER:-cpu}" NAT="${NAT:-ct}"

steer() {   # steer RVM IF...: move the work of these interfaces to SW_CPU
  local r="$1" i p before; shift
  [ "$STEER" != none ] || return 0
  for i in "$@"; do
    if [ "$STEER" = rps ]; then
      inns "$r" sh -c "printf %x $((1 << SW_CPU)) > /sys/class/net/$i/queues/rx-0/rps_cpus"; continue
    fi
    before=" $(pgrep "^napi/$i-" | tr '\n' ' ' || true)"
    inns "$r" sh -c "echo 1 > /sys/class/net/$i/threaded"
    for p in $(pgrep "^napi/$i-"); do
      case "$before" in *" $p "*) continue;; esac
      taskset -pc "$SW_CPU" "$p" >/dev/null; echo "$p" >> "$STATE/sw.pids"
    done
  done
}
bridge() { inns "$1" sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-arptables=0
           inns "$1" ip link add br0 type bridge mcast_snooping 0; inns "$1" ip link set br0 up
           local r="$1" i; shift; for i in "$@"; do inns "$r" ip link set "$i" master br0; done; }
vxlan()  { # vxlan RVM DEV VNI LOCAL REMOTE [MAC]
           inns "$1" ip link add "$2" ${6:+address $6} type vxlan id "$3" local "$4" remote "$5" dstport $VXLAN_PORT dev under
           inns "$1" ip link set "$2" mtu 1450 up; }
fip_common() { inns "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.all.send_redirects=0; }

up() {
  : > "$STATE/sw.pids"
  case "$1" in
  l2)    bridge r1 p-h1 p-h3; steer r1 p-h1 p-h3 ;;
  vxlan|vxlan-plain) vxlan r1 vx $VNI $IP_r1 $IP_r2; bridge r1 p-h1 vx; steer r1 p-h1 under
         vxlan r2 vx $VNI $IP_r2 $IP_r1; bridge r2 p-h2 vx; steer r2 p-h2 under ;;
  vtep)  vxlan r1 vx $VNI $IP_r1 $IP_r2; bridge r1 p-h1 vx; steer r1 p-h1 under
         inns r1 ip neigh replace $IP_r2 lladdr $MAC_r2 dev under nud permanent ;;
  fip)
    local r
    vxlan r1 fv $FIP_VNI $IP_r1 $IP_r2 $OVMAC_r1; inns r1 ip addr add $OV_r1/16 dev fv
    vxlan r2 fv $FIP_VNI $IP_r2 $IP_r1 $OVMAC_r2; inns r2 ip addr add $OV_r2/16 dev fv
    inns r2 ip addr add $PRIV_gw/24 dev p-h2
    for r in r1 r2; do fip_common $r; done
    inns r1 ip route add $FIP/32 via $OV_r2 dev fv
    inns r2 ip rule add from $PRIV_h2 lookup 100
    inns r2 ip route add default via $OV_r1 dev fv table 100
    inns r2 ip route add 192.168.1.0/24 dev p-h2 table 100
    if [ "$NAT" = ct ]; then
      inns r1 nft -f - <<N
table ip nat {
  chain pre  { type nat hook prerouting priority -100; iifname "under" ip daddr $IP_r1 udp dport != $VXLAN_PORT dnat to $FIP
                                                       iifname "under" ip daddr $IP_r1 ip protocol != udp dnat to $FIP; }
  chain post { type nat hook postrouting priority 100; oifname "under" ip saddr $FIP snat to $IP_r1; }
}
N
      inns r2 nft -f - <<N
table ip nat {
  chain pre  { type nat hook prerouting priority -100; iifname "fv" ip daddr $FIP dnat to $PRIV_h2; }
  chain post { type nat hook postrouting priority 100; oifname "fv" ip saddr $PRIV_h2 snat to $FIP; }
}
N
    else
      inns r1 nft -f - <<N
table ip nat1to1 {
  chain pre  { type filter hook prerouting priority -300; iifname "under" ip daddr $IP_r1 udp dport != $VXLAN_PORT ip daddr set $FIP
                                                          iifname "under" ip daddr $IP_r1 ip protocol != udp ip daddr set $FIP; }
  chain post { type filter hook postrouting priority 300; oifname "under" ip saddr $FIP ip saddr set $IP_r1; }
}
N
      inns r2 nft -f - <<N
table ip nat1to1 {
  chain pre  { type filter hook prerouting priority -300; iifname "fv" ip daddr $FIP ip daddr set $PRIV_h2; }
  chain post { type filter hook postrouting priority 300; oifname "fv" ip saddr $PRIV_h2 ip saddr set $FIP; }
}
N
    fi
    steer r1 under; steer r2 under p-h2 ;;
  esac
}
down() { rm -f "$STATE/sw.pids"; }     # everything lives in the namespaces, which topo.sh removes

case "${1:-}" in up) up "${2:?scenario}";; down) down;; *) die "usage: $0 up SCENARIO | down";; esac
