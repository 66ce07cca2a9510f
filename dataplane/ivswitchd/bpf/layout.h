// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Numbers that the programs share with the daemon (engine/src/tunnel, ports/afxdp/layout.rs).
// Written by `IVS_UPDATE=1 cargo test -p ivswitchd layout`; do not edit.
#pragma once

// a tunnel packet over IPv4 without options
#define OUTER_LEN 50
#define OUTER_UDP_AT 34
#define OUTER_UDP_LEN_AT 38
#define OUTER_VXLAN_AT 42
#define OUTER_VNI_AT 46
// behind the UDP header of any tunnel packet
#define VXLAN_LEN 8
// sizes of the maps
#define WAYS 2
#define SETS_BITS 13
#define OUTPUTS 1025
#define HIT_SHIFT 38
// bits of a slot
#define BIT_ROUTED 1
#define BIT_NAT_SOURCE 2
#define BIT_NAT_DEST 4
#define BIT_PUSH 8
#define BIT_RELAYED 16
#define BIT_UNMARKED 32
// offsets in bytes: of the fields of a slot
#define SLOT_EPOCH_AT 0
#define SLOT_KEY_AT 8
#define SLOT_OUT_AT 48
#define SLOT_LEN_MAX_AT 50
#define SLOT_BITS_AT 52
#define SLOT_PSEUDO_AT 56
#define SLOT_OUTER_SUM_AT 60
#define SLOT_OUTER_AT 64
#define SLOT_IP_DELTA_AT 114
#define SLOT_L4_DELTA_AT 116
#define SLOT_NAT_AT 120
#define SLOT_IFINDEX_AT 124
#define SLOT_MACS_AT 128
#define SLOT_HITS_AT 192
#define SLOT_STRAY_AT 200
#define SLOT_LEN 256
// of the fields of the cache's own map
#define CACHE_EPOCH_AT 0
#define CACHE_MIX_AT 8
#define CACHE_ON_AT 56
#define CACHE_LEN 64
// the first word of a VXLAN header, and of the VNI's word the bits that must be zero
#define VXLAN_FIRST_WORD 0x08000000
#define VXLAN_VNI_RESERVED 0xff
