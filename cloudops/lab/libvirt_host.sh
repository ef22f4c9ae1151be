#!/bin/bash
# PID 1 of one lab host. Runs in mount, UTS, IPC and PID namespaces of its own, so that nothing of the machine changes:
# the host sees its own libvirt directories, host name, users and groups. Arguments: state directory, host name, and
# where there is one a cgroup of its own for the CPU controller.
set -e
state=$1
hostname "$2"
bind() { mkdir -p "$2" && mount --bind "$1" "$2"; }
bind "$state/etc" /etc/libvirt
bind "$state/run" /run/libvirt
bind "$state/lib" /var/lib/libvirt
bind "$state/log" /var/log/libvirt
bind "$state/cache" /var/cache/libvirt
# libvirtd started by root loads no QEMU driver unless user libvirt-qemu and group kvm exist, whatever qemu.conf says.
for file in passwd group hosts; do mount --bind "$state/$file" "/etc/$file"; done
if [ -n "${3-}" ]; then
  # Whoever clears away what killed hosts have left sees that this one lives.
  echo $$ > "$3/cgroup.procs"
  # libvirt takes the mount that came last for the controller, and has never heard of the rest of the machine's groups.
  mkdir -p "$state/cpu" && mount --bind "$3" "$state/cpu"
  # It would look for the controller in version 2 too, where the machine does not have it.
  while read -r _ point kind _; do [ "$kind" != cgroup2 ] || umount --lazy "$point"; done < /proc/self/mounts
fi
cd /
# A supervisor, as systemd would be: guests outlive a crash of the daemon.
while :; do
  libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirt/libvirtd.pid ${LIBVIRTD_ARGS-} </dev/null &
  daemon=$!
  while kill -0 $daemon 2>/dev/null; do wait $daemon || true; done
  sleep 1
done
