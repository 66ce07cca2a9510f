#!/bin/bash
# Not a switch: a program that copies every frame from one AF_XDP port to the other (l2 only).
# It bounds what any AF_XDP switch can do here.  XSK_OPTS: options of tools/xsklimit.
#   xsk-wire       spins;   XSK_OPTS="-b 64" busy-polls;   XSK_OPTS=-p sleeps in poll()
set -euo pipefail
. "$(dirname "$0")/../env.sh"
up() {
  [ "$1" = l2 ] || die "xsk-wire knows only l2"
  local p
  plain_frames
  case "${XSK_OPTS:-}" in *-b*) for p in p-h1 p-h3; do
    inns r1 sh -c "echo 2 > /sys/class/net/$p/napi_defer_hard_irqs; echo 200000 > /sys/class/net/$p/gro_flush_timeout"; done;; esac
  XSK_BPF="$TOOLS/xsklimit.bpf.o" ip netns exec "${NS}r1" taskset -c $SW_CPU "$TOOLS/xsklimit" -t 600 ${XSK_OPTS:-} wire p-h1 p-h3 > "$STATE/xsk-wire.log" 2>&1 &
  echo $! > "$STATE/sw.pids"
}
down() { [ -f "$STATE/sw.pids" ] && kill $(cat "$STATE/sw.pids") 2>/dev/null; sleep 0.3; rm -f "$STATE/sw.pids"; return 0; }
case "${1:-}" in up) up "${2:?scenario}";; down) down;; *) die "usage: $0 up SCENARIO | down";; esac
