#!/bin/sh
# Builds steer.bpf.o, packet.bpf.o, track.bpf.o and cache_skb.bpf.o, each from its .c file.
#   build.sh           replaces the committed objects
#   build.sh --check   rebuilds in a temporary directory and fails if the code differs
# Needs clang 16 and LLVM's strip and objdump of the same version (other versions make other code), libbpf's and
# the kernel's user headers: on Debian 12, apt-get install clang-16 llvm-16 libbpf-dev linux-libc-dev.
set -eu
cd "$(dirname "$0")"
CLANG=${IVS_BPF_CLANG:-clang-16}
STRIP=${IVS_BPF_STRIP:-llvm-strip-16}
OBJDUMP=${IVS_BPF_OBJDUMP:-llvm-objdump-16}

build() { # build NAME OBJECT
	"$CLANG" -O2 -g -Wall -Werror -target bpf -mcpu=v3 -fdebug-prefix-map="$PWD"=. \
		-I"/usr/include/$(uname -m)-linux-gnu" -c "$1.bpf.c" -o "$2"
	"$STRIP" -g "$2"
}
dump() { "$OBJDUMP" -d -r "$1" | tail -n +3; }

case "${1:-}" in
'')
	for name in steer packet track cache_skb; do build "$name" "$name.bpf.o"; done ;;
--check)
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	for name in steer packet track cache_skb; do
		build "$name" "$dir/$name.bpf.o"
		dump "$name.bpf.o" > "$dir/committed"
		dump "$dir/$name.bpf.o" > "$dir/rebuilt"
		[ -s "$dir/committed" ]
		diff -u "$dir/committed" "$dir/rebuilt" || {
			echo "$name.bpf.o is not what $name.bpf.c makes: run bpf/build.sh and commit the object" >&2
			exit 1
		}
	done ;;
*)
	echo "usage: build.sh [--check]" >&2
	exit 2 ;;
esac
