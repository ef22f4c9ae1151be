"""Pages that show consoles: fleet, hosts, VMs, the live board, one's own consoles, and the console itself."""
