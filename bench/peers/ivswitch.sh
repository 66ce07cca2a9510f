#!/bin/bash
# Peer "ivswitch": the Inception Switch itself, one daemon per rVM.
# An entry of the peers harness: `cargo xtask peers --folder PEERS` copies it into a copy of that folder's
# peers.d/ and runs it beside the others.  Offload settings stay as the kernel chose them: no plain_frames.
#   IVS_BIN_DIR   where ivswitchd and ivctl are (default: in PATH)
#   IVS_XDP       auto (default), native, copy or generic
set -euo pipefail
. "$(dirname "$0")/../env.sh"
BIN="${IVS_BIN_DIR:+$IVS_BIN_DIR/}" IVS_XDP="${IVS_XDP:-auto}"

start() { # start RVM CORE: runs the daemon on a core, with the configuration on standard input
  local r="$1" dir="$STATE/ivs-$1" pid
  rm -rf "$dir"; mkdir -p "$dir"; cat > "$dir/config.toml"
  ip netns exec "$NS$r" taskset -c "$2" "${BIN}ivswitchd" --config "$dir/config.toml" --socket "$dir/sock" \
    > "$dir/log" 2>&1 7>&- < /dev/null &
  pid=$!; echo "$pid" > "$dir/pid"; echo "$pid" >> "$STATE/sw.pids"
  for _ in $(seq 100); do
    "${BIN}ivctl" --socket "$dir/sock" status > /dev/null 2>&1 && return 0
    kill -0 "$pid" 2> /dev/null || break
    sleep 0.05
  done
  cat "$dir/log" >&2; die "ivswitchd on $r did not come up"
}

uplink() { printf 'name = "%s"\n[uplink]\ninterface = "under"\naddress = "%s"\nport = %s\nxdp = "%s"\n' "$1" "$2" "$VXLAN_PORT" "$IVS_XDP"; }
network() { printf '[[network]]\nname = "%s"\nvni = %s\n' "$1" "$2"; }
port() { printf '[[port]]\nname = "%s"\nnetwork = "%s"\nrole = "door"\ninterface = "%s"\nbum_pps = 0\nxdp = "%s"\n' "$1" "$2" "$1" "$IVS_XDP"; }
peer() { printf '[[peer]]\nname = "%s"\naddress = "%s"\n' "$1" "$2"; }
static() { printf '[[fdb]]\nnetwork = "overlay"\nmac = "%s"\n%s = "%s"\n' "$1" "$2" "$3"; }
floating() { printf '[[floating]]\nip = "%s"\nnetwork = "public"\ngateway = "r1"\n' "$FIP"; }

up() {
  : > "$STATE/sw.pids"
  # Two busy threads on one core ruin each other, so with two rVMs they take one core each.
  case "$1" in
  l2)    { echo 'name = "r1"'; network overlay $VNI; port p-h1 overlay; port p-h3 overlay; } | start r1 "$SW_CPU" ;;
  vxlan) { uplink r1 $IP_r1; network overlay $VNI; port p-h1 overlay; peer r2 $IP_r2; } | start r1 "$GEN_CPU"
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
  rm -f "$STATE/sw.pids"
}

case "${1:-}" in up) up "${2:?scenario}";; down) down;; *) die "usage: $0 up SCENARIO | down";; esac
