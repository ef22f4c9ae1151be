"""The vSphere driver: one vCenter or one standalone ESXi host, through pyvmomi."""
