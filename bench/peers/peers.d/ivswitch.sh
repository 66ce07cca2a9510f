#!/bin/bash
# The Inception Switch itself, one daemon per rVM.  Offload settings stay as the kernel chose them.
#   IVS_BIN_DIR      the directory of ivswitchd and ivctl (default: in PATH)
#   IVS_XDP          auto (default), native, copy or generic
#   IVS_KIND         kind of the doors: afxdp (default), packet or tap
#   IVS_UPLINK_KIND  kind of the uplink: afxdp (default), packet or udp
#   IVS_CACHE        auto (default), on or off: where the kernel follows verdicts of hot flows
#   IVS_WORKERS      workers of a daemon (default: 1); with more it may use every core
set -euo pipefail
. "$(dirname "$0")/../env.sh"
BIN="${IVS_BIN_DIR:+$IVS_BIN_DIR/}" IVS_XDP="${IVS_XDP:-auto}"
IVS_KIND="${IVS_KIND:-}" IVS_UPLINK_KIND="${IVS_UPLINK_KIND:-}" IVS_CACHE="${IVS_CACHE:-}" IVS_WORKERS="${IVS_WORKERS:-}"

start() { # start RVM CORE: runs the daemon on a core, with the configuration on standard input
  local r="$1" dir="$STATE/ivs-$1" pid
  rm -rf "$dir"; mkdir -p "$dir"; cat > "$dir/config.toml"
  "${BIN}ivswitchd" --check "$dir/config.toml" > "$dir/log" 2>&1 || { cat "$dir/log" >&2; die "ivswitchd refuses the configuration: $(grep -m1 -i . "$dir/log")"; }
  [ -z "$IVS_WORKERS" ] || set -- "$1" "$GEN_CPU,$SW_CPU"
  ip netns exec "$NS$r" taskset -c "$2" "${BIN}ivswitchd" --config "$dir/config.toml" --socket "$dir/sock" \
    > "$dir/log" 2>&1 < /dev/null &
  pid=$!; echo "$pid" > "$dir/pid"; echo "$pid" >> "$STATE/sw.pids"
  for _ in $(seq 100); do
    "${BIN}ivctl" --socket "$dir/sock" status > /dev/null 2>&1 && return 0
    kill -0 "$pid" 2> /dev/null || break
    sleep 0.05
  done
  cat "$dir/log" >&2; die "ivswitchd on $r did not come up"
}

quoted() { if [ -n "$2" ]; then printf '%s = "%s"\n' "$1" "$2"; fi; }
rvm() { quoted name "$1"; quoted cache "$IVS_CACHE"; if [ -n "$IVS_WORKERS" ]; then printf '[workers]\ncount = %s\n' "$IVS_WORKERS"; fi; }
uplink() { rvm "$1"; printf '[uplink]\ninterface = "under"\naddress = "%s"\nport = %s\n' "$2" "$VXLAN_PORT"
           if [ -n "$IVS_UPLINK_KIND" ]; then quoted kind "$IVS_UPLINK_KIND"; else quoted xdp "$IVS_XDP"; fi; }
network() { printf '[[network]]\nname = "%s"\nvni = %s\n' "$1" "$2"; }
port() { printf '[[port]]\nname = "%s"\nnetwork = "%s"\nrole = "door"\nbum_pps = 0\n' "$1" "$2"
         if [ "$IVS_KIND" = tap ]; then echo "mtu = ${IVM_MTU:-1450}"; else quoted interface "$1"; fi
         if [ -n "$IVS_KIND" ]; then quoted kind "$IVS_KIND"; else quoted xdp "$IVS_XDP"; fi; }
peer() { printf '[[peer]]\nname = "%s"\naddress = "%s"\n' "$1" "$2"; }
static() { printf '[[fdb]]\nnetwork = "overlay"\nmac = "%s"\n%s = "%s"\n' "$1" "$2" "$3"; }
floating() { printf '[[floating]]\nip = "%s"\nnetwork = "public"\ngateway = "r1"\n' "$FIP"; }

# A TAP is the interface of the guest itself: the veth that topo.sh made goes, and the TAP takes its place.
free_names() { local h; for h in h1 h2 h3; do has_ns $h || continue; inns $h ip link del eth0; done; }
plug() { # plug HOST RVM: moves the TAP p-HOST into HOST
  local h="$1" mac="MAC_$1" ip="IP_$1"
  for _ in $(seq 50); do inns "$2" ip link show "p-$h" > /dev/null 2>&1 && break; sleep 0.05; done
  inns "$2" ip link set "p-$h" netns "$NS$h" name eth0
  inns "$h" ip link set eth0 address "${!mac}" mtu "$3" up; inns "$h" ip addr add "${!ip}/24" dev eth0; }

up() {
  : > "$STATE/sw.pids"
  [ "$IVS_KIND" != tap ] || free_names
  [ "$IVS_KIND" != tap ] || echo pkt > "$STATE/modes"      # no NAPI context for frames made in the kernel
  [ "$1" != l2 ] || IVM_MTU=1500
  # Two busy threads on one core ruin each other, so with two rVMs they take one core each.
  case "$1" in
  l2)    { rvm r1; network overlay $VNI; port p-h1 overlay; port p-h3 overlay; } | start r1 "$SW_CPU" ;;
  vxlan|vxlan-plain) { uplink r1 $IP_r1; network overlay $VNI; port p-h1 overlay; peer r2 $IP_r2; } | start r1 "$GEN_CPU"
         { uplink r2 $IP_r2; network overlay $VNI; port p-h2 overlay; peer r1 $IP_r1; } | start r2 "$SW_CPU" ;;
  vtep)  { uplink r1 $IP_r1; network overlay $VNI; port p-h1 overlay; peer r2 $IP_r2
           static $MAC_h1 port p-h1; static $MAC_h2 peer r2; } | start r1 "$SW_CPU" ;;
  fip)   # The outside host is in the underlay's own prefix, which is guarded unless one says otherwise.
         { uplink r1 $IP_r1; echo 'guard = []'; network public $FIP_VNI; echo 'gateway = ["10.2.0.1"]'; peer r2 $IP_r2
           floating; printf 'reality = "%s"\nexcept = []\n' $IP_r1; } | start r1 "$GEN_CPU"
         { uplink r2 $IP_r2; echo 'guard = []'; network public $FIP_VNI; echo 'gateway = ["10.2.0.1"]'
           network private 300; printf 'gateway = ["%s"]\nrouter_mac = "%s"\n' $PRIV_gw $MAC_gw
           port p-h2 private; peer r1 $IP_r1
           floating; printf 'inside = { network = "private", address = "%s" }\n' $PRIV_h2; } | start r2 "$SW_CPU" ;;
  esac
  if [ "$IVS_KIND" = tap ]; then
    case "$1" in
    l2) plug h1 r1 1500; plug h3 r1 1500 ;;
    *)  plug h1 r1 1450; plug h2 r2 1450 ;;
    esac
  fi
}

down() {
  local r pid
  for r in r1 r2; do
    [ -f "$STATE/ivs-$r/pid" ] || continue
    pid=$(cat "$STATE/ivs-$r/pid"); kill "$pid" 2> /dev/null || :
    for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2> /dev/null || :
    rm -f "$STATE/ivs-$r/pid"
  done
  rm -f "$STATE/sw.pids" "$STATE/modes"
}

case "${1:-}" in up) up "${2:?scenario}";; down) down;; *) die "usage: $0 up SCENARIO | down";; esac
