"""Plans moves of VMs: where each one goes, in which order, and what is in the way of the rest. Knows no Django."""
