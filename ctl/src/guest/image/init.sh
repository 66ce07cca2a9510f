#!/bin/sh
# init of the guest that `ivctl image build` makes. It reads from the kernel's command line:
#   iv.name=NAME            its host name
#   iv.ip=10.0.0.2/24[,eth1:10.1.0.2/24]  addresses, those without an interface for eth0; `dhcp` asks for one
#   iv.gw=10.0.0.1          its default route
#   iv.run=COMMAND          a command to run once it is up (blanks written as commas)
# Each line on the virtio-serial port ivswitch.agent is a shell command. The answer is its output, \001, its exit code
# and a newline.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=vt100 LD_LIBRARY_PATH=/lib
mount -t devtmpfs dev /dev 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /tmp /run
mount -t devpts devpts /dev/pts
word() { for w in $(cat /proc/cmdline); do case $w in "$1"=*) echo "${w#*=}"; return ;; esac; done; }
for m in $(cat /lib/modules/order); do insmod "/lib/modules/$m.ko" 2>/dev/null; done
name=$(word iv.name)
hostname "${name:-guest}"
ip link set lo up
# The host asks the guest to stop by pressing the power button.
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\npoweroff -f\n' > /etc/acpi/PWRF/00000080
chmod +x /etc/acpi/PWRF/00000080
[ -e /dev/input/event0 ] && acpid -d > /dev/null 2>&1 &
up() { # an interface that is there, or comes later, with what the command line says of it
  ip link set "$1" up
  for a in $(word iv.ip | tr ',' ' '); do
    case $a in
      "$1":*) a=${a#*:} ;;
      *:*/* | *:dhcp) case $a in eth*) continue ;; esac; [ "$1" = eth0 ] || continue ;;
      *) [ "$1" = eth0 ] || continue ;;
    esac
    case $a in dhcp) udhcpc -i "$1" -b -q -t 10 -T 1 -s /bin/dhcp-script >/dev/null 2>&1 ;; *) ip addr add "$a" dev "$1" ;; esac
  done
}
for d in /sys/class/net/eth*; do [ -e "$d" ] && up "${d##*/}"; done
gw=$(word iv.gw)
[ -n "$gw" ] && ip route add default via "$gw"
read -r since _ < /proc/uptime
echo "IV-UP $since kernel=$(uname -r)" > /dev/console
run=$(word iv.run | tr ',' ' ')
[ -n "$run" ] && sh -c "$run" &
agent() { # as long as the port is there; between two who ask it stays open, for what comes during a close is lost
  while [ -e "$1" ]; do
    while IFS= read -r line; do
      [ -n "$line" ] || continue
      sh -c "$line" < /dev/null > /tmp/.agent 2>&1
      code=$?
      cat /tmp/.agent
      printf '\001%d\n' $code
    done
    sleep 0.2
  done
}
(while :; do
  for p in /sys/class/virtio-ports/*; do
    if [ -e "$p/name" ] && [ "$(cat "$p/name")" = ivswitch.agent ]; then agent "$p/name" <> "/dev/${p##*/}" >&0 2>/dev/null; fi
  done
  sleep 0.2
done) &
while :; do
  setsid cttyhack sh 2>/dev/null || sh
  sleep 1
done
