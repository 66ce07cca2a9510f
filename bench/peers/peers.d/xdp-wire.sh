#!/bin/bash
# Not a switch: an XDP program that redirects every frame from one port to the other inside the
# kernel (l2 only).  It bounds what an XDP fast path can do here.
set -euo pipefail
. "$(dirname "$0")/../env.sh"
up() {
  [ "$1" = l2 ] || die "xdp-wire knows only l2"
  local i t before; plain_frames; : > "$STATE/sw.pids"
  XSK_BPF="$TOOLS/xsklimit.bpf.o" ip netns exec "${NS}r1" "$TOOLS/xsklimit" -t 600 ${XSK_OPTS:-} xdp p-h1 p-h3 > "$STATE/xdp-wire.log" 2>&1 &
  echo $! > "$STATE/xdp-wire.pid"; sleep 0.5
  for i in p-h1 p-h3; do
    before=" $(pgrep "^napi/$i-" | tr '\n' ' ' || true)"
    inns r1 sh -c "echo 1 > /sys/class/net/$i/threaded"
    for t in $(pgrep "^napi/$i-"); do case "$before" in *" $t "*) continue;; esac
      taskset -pc $SW_CPU $t >/dev/null; echo $t >> "$STATE/sw.pids"; done
  done
}
down() { [ -f "$STATE/xdp-wire.pid" ] && kill "$(cat "$STATE/xdp-wire.pid")" 2>/dev/null; sleep 0.3; rm -f "$STATE/sw.pids" "$STATE/xdp-wire.pid"; return 0; }
case "${1:-}" in up) up "${2:?scenario}";; down) down;; *) die "usage: $0 up SCENARIO | down";; esac
