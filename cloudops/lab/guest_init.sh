#!/bin/busybox sh
# PID 1 of the lab guest: an initramfs-only Linux with a shell on the VGA console (tty1) and on the serial line (ttyS0).
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
export PATH=/bin HOME=/root TERM=linux
mkdir -p /dev/pts /tmp && mount -t devpts devpts /dev/pts
# Memory beside the boot memory goes on line by itself; Debian's kernels leave it offline. What was there before this was
# said (DIMMs that the VM was started with) is put on line here; what virtio_mem finds comes after.
echo online_movable > /sys/devices/system/memory/auto_online_blocks 2>/dev/null
for block in /sys/devices/system/memory/memory[0-9]*; do
  read -r state < "$block/state" && [ "$state" = offline ] && echo online_movable > "$block/state" 2>/dev/null
done
for module in $(cat /lib/modules/order); do insmod "/lib/modules/$module" 2>/dev/null; done
for word in $(cat /proc/cmdline); do
  case $word in lab.name=*) hostname "${word#lab.name=}" ;; esac
done
ip link set lo up 2>/dev/null
[ -e /sys/class/net/eth0 ] && ip link set eth0 up
acpid -f -l /dev/null -c /etc/acpi &

# Brings hot-added CPUs on line and reports every change of memory or CPU count on the serial line. Shell builtins only:
# under emulation every exec is costly.
mkfifo /tmp/tick
exec 9<>/tmp/tick
(
  last= seen=
  while :; do
    now=
    for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
      now="$now $cpu "
      case "$seen" in *"$cpu "*) continue ;; esac
      [ -e "$cpu/online" ] && read -r online < "$cpu/online" && [ "$online" = 0 ] && echo 1 > "$cpu/online" 2>/dev/null
    done
    seen=$now
    read -r _ memory_kib _ < /proc/meminfo
    read -r cpus < /sys/devices/system/cpu/online
    [ "$memory_kib $cpus" != "$last" ] && echo "GUEST memory_kib=$memory_kib cpus=$cpus" > /dev/ttyS0
    last="$memory_kib $cpus"
    read -r -t 1 _ <&9
  done
) &

# Emulation by QEMU before 9.0 may lose what an idle guest writes while it migrates: it forgets to watch pages that are
# still in its address translation cache ("physmem: Fix migration dirty bitmap coherency with TCG memory access").
# Two processes that take turns empty that cache many times a second.
for turn in one two; do
  (
    mkfifo "/tmp/$turn"
    exec 8<>"/tmp/$turn"
    while :; do read -r -t 0.2 _ <&8; done
  ) &
done

# The login shell's profile. It draws the welcome itself because busybox prints a banner of its own just before.
cat > /root/.profile <<'PROFILE'
welcome() {
  memory_mib=$(( $(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024 ))
  line='────────────────────────────────────────────────────────────────'
  printf '\033[H\033[2J\033[3J\n'
  printf '   \033[1;36m%s\033[0m\n' "$(hostname)"
  printf '   \033[36m%s\033[0m\n' "$line"
  printf '   \033[1mSystem\033[0m    Linux %s\n' "$(uname -r)"
  printf '   \033[1mMemory\033[0m    %s MiB usable\n' "$memory_mib"
  printf '   \033[1mCPUs\033[0m      %s\n' "$(grep -c ^processor /proc/cpuinfo)"
  printf '   \033[1mStarted\033[0m   %s UTC\n' "$(date -u '+%Y-%m-%d %H:%M:%S')"
  printf '   \033[36m%s\033[0m\n\n' "$line"
  printf '   Welcome. This is a real virtual machine, and you are its root.\n'
  printf '   Nothing you type here can harm anything: it lives in memory only.\n\n'
}
alias ls='ls --color=auto'
cd
if [ "$(tty)" = /dev/tty1 ]; then
  export PS1='\[\033[1;32m\]'"$(hostname)"'\[\033[0m\]:\[\033[1;34m\]\w\[\033[0m\]# '
  welcome
  echo "GUEST READY name=$(hostname)" > /dev/ttyS0
else
  export PS1='serial# '
fi
PROFILE

( while :; do setsid -c sh -l < /dev/ttyS0 > /dev/ttyS0 2>&1; sleep 1; done ) &
while :; do setsid -c sh -l < /dev/tty1 > /dev/tty1 2>&1; sleep 1; done
