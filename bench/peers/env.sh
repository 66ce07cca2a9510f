# Constants and helpers shared by every script here.  Source it; do not run it.
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
STATE="${STATE:?a directory for pid files, databases and logs}"
TOOLS="${TOOLS:-$STATE/tools}"                     # what tools/Makefile builds
NS="${NS:-ivb-}"                                   # prefix of every namespace made here
GEN_CPU="${GEN_CPU:-0}"                            # generator, iperf3, sockperf
SW_CPU="${SW_CPU:-1}"                              # the switch under test
mkdir -p "$STATE"

# --- the addressing plan (the contract: see README.md) -----------------------
MAC_h1=02:00:0a:01:00:01  IP_h1=10.1.0.1           # iVMs on the overlay 10.1.0.0/24
MAC_h2=02:00:0a:01:00:02  IP_h2=10.1.0.2
MAC_h3=02:00:0a:01:00:03  IP_h3=10.1.0.3
MAC_r1=02:00:0a:00:00:0b  IP_r1=10.0.0.11          # rVM underlay NICs, 10.0.0.0/16
MAC_r2=02:00:0a:00:00:0c  IP_r2=10.0.0.12
MAC_ext=02:00:0a:00:00:63 IP_ext=10.0.0.99         # outside host (fip)
VNI=100                                            # overlay of l2, vxlan and vtep
FIP=56.0.0.11                                      # public address realised on h2
FIP_VNI=200                                        # overlay carrying floating IPs, 10.2.0.0/16
OV_r1=10.2.0.11  OVMAC_r1=02:00:0a:02:00:0b
OV_r2=10.2.0.12  OVMAC_r2=02:00:0a:02:00:0c
PRIV_h2=192.168.1.2 PRIV_gw=192.168.1.1 MAC_gw=02:00:c0:a8:01:01
VXLAN_PORT=4789
UDP_PORT=9999                                      # destination port of generated packets

die()   { echo "error: $*" >&2; exit 1; }
inns()  { local n="$1"; shift; ip netns exec "$NS$n" "$@"; }   # run in a namespace
has_ns(){ [ -e "/run/netns/$NS$1" ]; }

# plain_frames: make every far end of a switch link send finished frames (real checksums, at
# most one MTU).  For switches that take bytes off the wire and know nothing of CHECKSUM_PARTIAL.
plain_frames() {
  local n
  for n in h1 h2 h3 ext; do has_ns $n && inns $n ethtool -K eth0 tx off >/dev/null; done
  for n in r1 r2; do has_ns net && inns net ethtool -K $n tx off >/dev/null; done
  return 0
}
