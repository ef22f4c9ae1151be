"""The libvirt driver: KVM and QEMU hosts through libvirtd or virtqemud, over unix sockets, TCP, TLS and SSH."""
