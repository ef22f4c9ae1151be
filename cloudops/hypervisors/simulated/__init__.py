"""Simulated hypervisors: what a real one does, without one. For tests, for development and for a fleet to look at.

A URI ``simulated://NAME?hosts=10&vms=20&seed=1`` is an endpoint with ten hosts of twenty VMs each. Everything about
them follows from the URI, so that every process sees the same fleet. What changes (power states, console connections,
faults) lives in this process's memory, or with ``&state=/path/file.sqlite`` in a file that processes share.
"""

from cloudops.hypervisors.simulated.driver import SimulatedHypervisor, reset, set_faults
from cloudops.hypervisors.simulated.state import Faults

__all__ = ["Faults", "SimulatedHypervisor", "reset", "set_faults"]
