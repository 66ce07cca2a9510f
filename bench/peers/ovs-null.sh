#!/bin/bash
# Cycles per packet of Open vSwitch's userspace datapath without I/O: DPDK ports that are fed from a capture in memory
# (infinite_rx) and discard all output.  Its exact-match cache holds every flow, which is its best case.
#   ovs-null.sh CASE CAPTURE SECONDS      one JSON line
#   ovs-null.sh down                      removes whatever a killed run has left behind
# Needs the DPDK build of Open vSwitch with its null and pcap drivers, and 400 huge pages while it runs, which it
# requests from the kernel and returns.
set -euo pipefail
. "$(dirname "$0")/env.sh"
D="$STATE/ovs-null"
export OVS_RUNDIR="$D" OVS_LOGDIR="$D" OVS_DBDIR="$D"
PAGES=/proc/sys/vm/nr_hugepages

stop() {
  local p
  for p in vswitchd ovsdb; do
    [ -f "$D/$p.pid" ] || continue
    kill "$(cat "$D/$p.pid")" 2>/dev/null || :
    for _ in $(seq 50); do kill -0 "$(cat "$D/$p.pid" 2>/dev/null || echo none)" 2>/dev/null || break; sleep 0.05; done
  done
  has_ns null && ip netns del "${NS}null"
  [ -f "$D/hugepages" ] && cat "$D/hugepages" > $PAGES
  rm -rf "$D"
}
[ "${1:-}" != down ] || { stop; exit 0; }

CASE="${1:?case}" CAPTURE="${2:?capture}" SECS="${3:?seconds}"
VSWITCHD=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
[ -x "$VSWITCHD" ] || die "missing: the DPDK build of Open vSwitch (Debian: openvswitch-switch-dpdk)"
for driver in net_null net_pcap; do
  compgen -G "/usr/lib/*/dpdk/pmds-*/librte_$driver.so*" >/dev/null || die "missing: DPDK's driver $driver (Debian: librte-${driver/_/-}23)"
done
stop; mkdir -p "$D"; trap stop EXIT
cat $PAGES > "$D/hugepages"
[ "$(cat $PAGES)" -ge 400 ] || echo 400 > $PAGES
[ "$(cat $PAGES)" -ge 400 ] || die "missing: huge pages, the kernel gave $(cat $PAGES) of 400; free some memory"
MHZ=$(awk -F: '/cpu MHz/ { printf "%d", $2; exit }' /proc/cpuinfo)

vs()  { ovs-vsctl --db="unix:$D/db.sock" --timeout=20 "$@"; }
ctl() { ovs-appctl --timeout=20 -t "$(ls "$D"/ovs-vswitchd*.ctl)" "$@"; }
of()  { ovs-ofctl "$1" "$D/$2.mgmt" "${@:3}"; }
ip netns add "${NS}null"; inns null ip link set lo up
ovsdb-tool create "$D/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$D/conf.db" --remote="punix:$D/db.sock" --pidfile="$D/ovsdb.pid" --log-file="$D/ovsdb.log" --detach -vconsole:off 2>/dev/null
vs --no-wait init
vs --no-wait set open . other_config:dpdk-init=true other_config:dpdk-lcore-mask=$(printf %x $((1 << GEN_CPU))) \
   other_config:pmd-cpu-mask=$(printf %x $((1 << SW_CPU))) other_config:dpdk-socket-mem=600 \
   other_config:dpdk-extra="--no-pci --in-memory" other_config:emc-insert-inv-prob=1
inns null "$VSWITCHD" "unix:$D/db.sock" --pidfile="$D/vswitchd.pid" --log-file="$D/vswitchd.log" --detach -vconsole:off >/dev/null 2>&1

source_port() { vs add-port "$1" "$2" -- set interface "$2" type=dpdk options:n_rxq=1 options:dpdk-devargs="net_pcap_$2,rx_pcap=$CAPTURE,infinite_rx=1"; }
null_port()   { vs add-port "$1" "$2" -- set interface "$2" type=dpdk options:n_rxq=1 options:dpdk-devargs="net_null_$2,no-rx=1"; }
bridge()      { vs add-br "$1" -- set bridge "$1" datapath_type=netdev ${2:+other-config:hwaddr=$2}; of del-flows "$1"; }
flow()        { of add-flow "$@"; }
underlay()    { # underlay source|null: the bridge that holds the tunnel's end, with such a port
  bridge br-phy $MAC_r1; "$1_port" br-phy under
  flow br-phy "in_port=LOCAL,actions=output:under"; flow br-phy "priority=10,in_port=under,actions=LOCAL"
  inns null ip link set br-phy up; inns null ip addr add $IP_r1/16 dev br-phy
  sleep 0.3; ctl tnl/neigh/set br-phy $IP_r2 $MAC_r2 >/dev/null; }
tunnel()      { vs add-port "$1" vx -- set interface vx type=vxlan options:remote_ip=$IP_r2 options:key=$VNI options:dst_port=$VXLAN_PORT; }
overlay()     { bridge br-int; "$1_port" br-int end; tunnel br-int; }

OUT="br-int end"          # where the frames leave
case "$CASE" in
l2)    bridge br-int; source_port br-int in0; null_port br-int end; flow br-int "dl_dst=$MAC_h2,actions=output:end" ;;
encap) OUT="br-phy under"; underlay null; overlay source; flow br-int "dl_dst=$MAC_h2,actions=output:vx" ;;
decap) underlay source; overlay null; flow br-int "dl_dst=$MAC_h1,actions=output:end" ;;
fip-in-gateway)   # DNAT and push; out by the port where it came in
  OUT="br-phy under"; underlay source; bridge br-pub; tunnel br-pub
  vs add-port br-phy to-pub -- set interface to-pub type=patch options:peer=to-phy \
     -- add-port br-pub to-phy -- set interface to-phy type=patch options:peer=to-pub
  flow br-phy "priority=40,in_port=under,ip,nw_dst=$IP_r1,actions=mod_nw_dst:$FIP,mod_dl_src:$OVMAC_r1,mod_dl_dst:$OVMAC_r2,output:to-pub"
  flow br-pub "in_port=to-phy,actions=output:vx" ;;
fip-in-owner)     # pop and DNAT
  underlay source; overlay null
  flow br-int "in_port=vx,ip,nw_dst=$FIP,actions=mod_nw_dst:$PRIV_h2,mod_dl_src:$MAC_gw,mod_dl_dst:$MAC_h2,output:end" ;;
fip-out-owner)    # SNAT and push
  OUT="br-phy under"; underlay null; overlay source
  flow br-int "in_port=end,ip,nw_src=$PRIV_h2,actions=mod_nw_src:$FIP,mod_dl_src:$OVMAC_r2,mod_dl_dst:$OVMAC_r1,output:vx" ;;
fip-out-gateway)  # pop and SNAT
  underlay source; overlay null
  flow br-int "in_port=vx,ip,nw_src=$FIP,actions=mod_nw_src:$IP_r1,mod_dl_src:$MAC_r1,mod_dl_dst:$MAC_ext,output:end" ;;
*) die "no case $CASE" ;;
esac
sleep 1; ctl dpif-netdev/pmd-stats-clear; sleep "$SECS"; ctl dpif-netdev/pmd-stats-show > "$D/stats"
SENT=$(of dump-ports $OUT | sed -n 's/.*tx pkts=\([0-9]*\).*/\1/p')
awk -v sent="${SENT:-0}" -v mhz="$MHZ" -v secs="$SECS" '
  /^main thread/ { exit }
  /packets received:/ { packets = $3 }  /packet recirculations:/ { again = $3 }  /emc hits:/ { emc = $3 }
  /avg processing cycles per packet:/ { cycles = $6 }
  END { printf "{\"packets\":%d,\"mpps\":%.3f,\"cycles_per_pkt\":%s,\"ns_per_pkt\":%.1f,\"recirculations\":%d,\"emc_hits\":%d,\"sent\":%d}\n",
        packets, packets / secs / 1e6, cycles + 0, cycles * 1000 / mhz, again, emc, sent }' "$D/stats"
