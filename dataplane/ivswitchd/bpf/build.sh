#!/bin/sh
# Builds steer.bpf.o from steer.bpf.c.
#   build.sh           replaces the committed object
#   build.sh --check   rebuilds beside it and fails when the code differs
# Needs clang 16 and LLVM's strip and objdump of the same version (other versions make other code), libbpf's and
# the kernel's user headers: on Debian 12, apt-get install clang-16 llvm-16 libbpf-dev linux-libc-dev.
set -eu
cd "$(dirname "$0")"
CLANG=${IVS_BPF_CLANG:-clang-16}
STRIP=${IVS_BPF_STRIP:-llvm-strip-16}
OBJDUMP=${IVS_BPF_OBJDUMP:-llvm-objdump-16}

build() {
	"$CLANG" -O2 -g -Wall -Werror -target bpf -mcpu=v3 -fdebug-prefix-map="$PWD"=. \
		-I"/usr/include/$(uname -m)-linux-gnu" -c steer.bpf.c -o "$1"
	"$STRIP" -g "$1"
}
dump() { "$OBJDUMP" -d -r -j xdp.frags "$1" | tail -n +3; }

case "${1:-}" in
'')
	build steer.bpf.o ;;
--check)
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	build "$dir/steer.bpf.o"
	dump steer.bpf.o > "$dir/committed"
	dump "$dir/steer.bpf.o" > "$dir/rebuilt"
	[ -s "$dir/committed" ]
	diff -u "$dir/committed" "$dir/rebuilt" || {
		echo "steer.bpf.o is not what steer.bpf.c makes: run bpf/build.sh and commit the object" >&2
		exit 1
	} ;;
*)
	echo "usage: build.sh [--check]" >&2
	exit 2 ;;
esac
