#!/bin/bash
# Open vSwitch, userspace datapath, one instance (own database, own namespace) per rVM.
#   PORTS=afxdp   type=afxdp ports, polled by a PMD thread on SW_CPU
#   PORTS=packet  ordinary AF_PACKET ports, served by the main thread on SW_CPU
#   PORTS=dpdk    type=dpdk ports over net_af_packet or net_af_xdp vdevs (VDEV=af_packet|af_xdp)
#   PMD_SLEEP=us  other_config:pmd-maxsleep; PMD_CPU_r1, PMD_CPU_r2: PMD core of each instance
set -euo pipefail
. "$(dirname "$0")/../env.sh"
PORTS="${PORTS:-afxdp}" VDEV="${VDEV:-af_xdp}" PMD_SLEEP="${PMD_SLEEP:-0}"
# two busy-polling threads on one core ruin each other, so with two rVMs they take one core each
case "${2:-}" in vxlan*|fip) PMD_CPU_r1="${PMD_CPU_r1:-$GEN_CPU}";; *) PMD_CPU_r1="${PMD_CPU_r1:-$SW_CPU}";; esac
PMD_CPU_r2="${PMD_CPU_r2:-$SW_CPU}"
case $PORTS in
dpdk) VSWITCHD=$(ls /usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk 2>/dev/null || command -v ovs-vswitchd) ;;
*)    VSWITCHD=$(ls /usr/lib/openvswitch-switch/ovs-vswitchd 2>/dev/null || command -v ovs-vswitchd) ;;
esac

rvm() { export RVM=$1 OVS_RUNDIR="$STATE/ovs-$1" OVS_LOGDIR="$STATE/ovs-$1" OVS_DBDIR="$STATE/ovs-$1" OVS_SYSCONFDIR="$STATE/ovs-$1"; }
vs()  { ovs-vsctl --db="unix:$OVS_RUNDIR/db.sock" --timeout=20 "$@"; }
of()  { ovs-ofctl "${@:1:1}" "$OVS_RUNDIR/$2.mgmt" "${@:3}"; }
ctl() { ovs-appctl --timeout=20 -t "$(ls $OVS_RUNDIR/ovs-vswitchd*.ctl)" "$@"; }

start() { # start RVM
  rvm "$1"; rm -rf "$OVS_RUNDIR"; mkdir -p "$OVS_RUNDIR"; local cpu="PMD_CPU_$1" mask
  mask=$(printf %x $((1 << ${!cpu})))
  ovsdb-tool create "$OVS_RUNDIR/conf.db" "${OVS_SCHEMA:-/usr/share/openvswitch/vswitch.ovsschema}"
  ovsdb-server "$OVS_RUNDIR/conf.db" --remote="punix:$OVS_RUNDIR/db.sock" --pidfile="$OVS_RUNDIR/ovsdb.pid" \
      --log-file="$OVS_RUNDIR/ovsdb.log" --detach -vconsole:off 2>/dev/null
  vs --no-wait init
  vs --no-wait set open . other_config:pmd-cpu-mask=$mask other_config:pmd-maxsleep=$PMD_SLEEP
  if [ $PORTS = dpdk ]; then
    vs --no-wait set open . other_config:dpdk-init=true other_config:dpdk-lcore-mask=1 other_config:dpdk-socket-mem=256 other_config:dpdk-socket-limit=512 \
       other_config:dpdk-extra="--no-pci --in-memory --file-prefix=$1"
  fi
  local pin=$SW_CPU; [ $PORTS = packet ] && pin=${!cpu} || pin=$GEN_CPU
  ( ulimit -l unlimited 2>/dev/null || :; exec; inns "$1" taskset -c "$pin" "$VSWITCHD" "unix:$OVS_RUNDIR/db.sock" \
      --pidfile="$OVS_RUNDIR/vswitchd.pid" --log-file="$OVS_RUNDIR/vswitchd.log" --detach -vconsole:off )
  cat "$OVS_RUNDIR/vswitchd.pid" >> "$STATE/sw.pids"
}
bridge() { vs add-br "$1" -- set bridge "$1" datapath_type=netdev ${2:+other-config:hwaddr=$2}; }
port() { # port BRIDGE IF: attach the veth end IF of this rVM
  case $PORTS in
  afxdp)  inns $RVM ethtool -K "$2" gro off tx off >/dev/null 2>&1 || :
          vs add-port "$1" "$2" -- set interface "$2" type=afxdp options:xdp-mode=${XDP_MODE:-native} ;;
  packet) inns $RVM ethtool -K "$2" gro off tx off >/dev/null 2>&1 || :    # no superframes: they do not fit
          # AF_PACKET only listens in: keep the kernel from answering the same frames
          inns $RVM nft "add table netdev ovs; add chain netdev ovs ${2//-/_} { type filter hook ingress device $2 priority 0; policy drop; }"
          vs add-port "$1" "$2"; echo pkt > "$STATE/modes" ;;              # no NAPI: no live frames
  dpdk)   vs add-port "$1" "$2" -- set interface "$2" type=dpdk options:n_rxq=1 \
            options:dpdk-devargs="$( [ $VDEV = af_xdp ] && echo "net_af_xdp_$2,iface=$2,start_queue=0,queue_count=1" || echo "net_af_packet_$2,iface=$2,blocksz=4096,framesz=2048,framecnt=1024,qpairs=1")" ;;
  esac
}
tunnel() { vs add-port "$1" "$2" -- set interface "$2" type=vxlan options:remote_ip="$3" options:key="$4" options:dst_port=$VXLAN_PORT; }
underlay() { # underlay IP MAC: the address moves from the NIC to br-phy's local port
  bridge br-phy "$2"; port br-phy under
  inns $RVM ip addr flush dev under; inns $RVM ip link set br-phy up; inns $RVM ip addr add "$1/16" dev br-phy; }
neigh() { ctl tnl/neigh/set br-phy "$1" "$2" >/dev/null; }

up() {
  : > "$STATE/sw.pids"; rm -f "$STATE/modes"
  plain_frames
  [ -x "$VSWITCHD" ] || die "missing: Open vSwitch (Debian: openvswitch-switch)"
  case "$1" in
  l2)    start r1; bridge br-int; port br-int p-h1; port br-int p-h3 ;;
  vxlan|vxlan-plain) start r1; underlay $IP_r1 $MAC_r1; bridge br-int; port br-int p-h1; tunnel br-int vx $IP_r2 $VNI; neigh $IP_r2 $MAC_r2
         start r2; underlay $IP_r2 $MAC_r2; bridge br-int; port br-int p-h2; tunnel br-int vx $IP_r1 $VNI; neigh $IP_r1 $MAC_r1 ;;
  vtep)  start r1; underlay $IP_r1 $MAC_r1; bridge br-int; port br-int p-h1; tunnel br-int vx $IP_r2 $VNI; neigh $IP_r2 $MAC_r2
         ovs-ofctl del-flows "$OVS_RUNDIR/br-int.mgmt"       # both MACs known, no flooding
         of add-flow br-int "dl_dst=$MAC_h1,actions=output:p-h1"; of add-flow br-int "dl_dst=$MAC_h2,actions=output:vx" ;;
  fip)
    # r1: public address <-> private address of the rVM; the overlay hop is one VXLAN tunnel
    start r1; underlay $IP_r1 $MAC_r1; bridge br-pub; tunnel br-pub fv $IP_r2 $FIP_VNI; neigh $IP_r2 $MAC_r2
    vs add-port br-phy to-pub -- set interface to-pub type=patch options:peer=to-phy \
       -- add-port br-pub to-phy -- set interface to-phy type=patch options:peer=to-pub
    ovs-ofctl del-flows "$OVS_RUNDIR/br-phy.mgmt"            # no NORMAL here: its flooding would loop through fv
    of add-flow br-phy "priority=10,in_port=LOCAL,actions=output:under"
    of add-flow br-phy "priority=10,in_port=under,actions=LOCAL"
    of add-flow br-phy "priority=30,in_port=under,udp,nw_dst=$IP_r1,tp_dst=$VXLAN_PORT,actions=LOCAL"
    of add-flow br-phy "priority=20,in_port=under,ip,nw_dst=$IP_r1,actions=mod_nw_dst:$FIP,mod_dl_src:$OVMAC_r1,mod_dl_dst:$OVMAC_r2,output:to-pub"
    of add-flow br-phy "priority=20,in_port=to-pub,actions=output:under"
    of add-flow br-pub "priority=20,in_port=to-phy,actions=output:fv"
    of add-flow br-pub "priority=20,in_port=fv,ip,nw_src=$FIP,actions=mod_nw_src:$IP_r1,mod_dl_src:$MAC_r1,mod_dl_dst:$MAC_ext,output:to-phy"
    # r2: public address <-> nested address; replies are source-routed to r1 by source address
    start r2; underlay $IP_r2 $MAC_r2; bridge br-pub; port br-pub p-h2; tunnel br-pub fv $IP_r1 $FIP_VNI; neigh $IP_r1 $MAC_r1
    of add-flow br-pub "priority=20,in_port=fv,ip,nw_dst=$FIP,actions=mod_nw_dst:$PRIV_h2,mod_dl_src:$MAC_gw,mod_dl_dst:$MAC_h2,output:p-h2"
    of add-flow br-pub "priority=20,in_port=p-h2,ip,nw_src=$PRIV_h2,actions=mod_nw_src:$FIP,mod_dl_src:$OVMAC_r2,mod_dl_dst:$OVMAC_r1,output:fv" ;;
  esac
}
down() {
  local r p
  for r in r1 r2; do for p in vswitchd ovsdb; do
    [ -f "$STATE/ovs-$r/$p.pid" ] || continue
    kill "$(cat "$STATE/ovs-$r/$p.pid")" 2>/dev/null || :
    for _ in $(seq 50); do kill -0 "$(cat "$STATE/ovs-$r/$p.pid" 2>/dev/null || echo 0x)" 2>/dev/null || break; sleep 0.1; done
  done; done
  rm -f "$STATE/sw.pids" "$STATE/modes"
}
case "${1:-}" in up) up "${2:?scenario}";; down) down;; ctl) rvm "$2"; ctl "${@:3}";; *) die "usage: $0 up SCENARIO | down | ctl RVM ARGS";; esac
