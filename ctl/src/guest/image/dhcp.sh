#!/bin/sh
# Configures the interface from a lease that udhcpc got.
case $1 in
  bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    for r in $router; do ip route replace default via "$r" dev "$interface"; done
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    ;;
  deconfig) ip link set "$interface" up ;;
esac
exit 0
