"""A fake vCenter with ESXi hosts, or one ESXi host by itself, which unmodified pyVmomi takes for a real one.

``FakeVcenter`` runs in a thread of the test; ``FakeProcess`` is the same as a process of its own. SOAP at /sdk, the
tagging part of REST below /api, displays at each ESXi host's own address under /ticket/; all with TLS. Displays show
a VNC server (``VmPlan.vnc``) or a small screen of their own. ``faults`` makes it fail as the real one does.

What is documented (vSphere Web Services API, 8.0) is done as documented. What is assumed, because nobody here has a
real ESXi host to ask, is this:

Displays
- ``AcquireTicket`` refuses when as many displays are connected as ``config.maxMksConnections`` says; tickets that were
  not used yet do not count. A ticket that would be one display too many is answered with HTTP 503 when it is used.
- A ticket is for once, for 30 seconds, for one VM on the host that it is on; otherwise /ticket/ answers HTTP 404. A
  client that does not offer the subprotocol ``binary`` is answered with HTTP 400.
- A display is counted from the WebSocket's handshake until either side closes it, in ``runtime.numMksConnections`` and
  ``QueryConnections`` alike, and gone from both at once. A client that vanishes without a word (half-open) stays
  counted: the host does not ask whether it is still there.
- ``QueryConnections`` names connections "mks-N" in the order in which they came; ``client`` is the address without the
  port, the same for all behind one relay; ``userName`` is who acquired the ticket.
- ``DropConnections`` closes with 1008; it answers false when one of those named was gone already.
- Powering off, suspending and vMotion close all displays of the VM (1001); a reset does not.
- RFB 3.8 with security type None comes first, without anything of VMware's own before it.

Moving, maintenance, resizing
- vMotion's checks look at: the host's connection and maintenance, CPU features (EVC modes), datastores, networks, the
  vMotion interface, and reservations; the first objection becomes the task's error. Load is none.
- A cancelled vMotion leaves the VM where it was (RequestCanceled).
- A host that is entering maintenance takes no VM any more. EnterMaintenanceMode waits for running VMs only; with DRS
  it moves them away, and it waits for those that fit nowhere. After a timeout or a cancel nothing has changed.
- One task at a time changes a VM; another one is refused with TaskInProgress.
- A running VM's memory: InvalidPowerState for less, MemoryHotPlugNotSupported without hot-add, MemorySizeNotSupported
  beyond ``hotPlugMemoryLimit`` (16 times what it started with; 3 GB for a Linux guest that started with no more),
  InvalidArgument between the increments. CPUs: CpuHotPlugNotSupported. Hot-add's flags: InvalidPowerState.
- A CPU that is hot-added, and memory, is there at once: no guest has to take it.

Sessions, updates, the rest
- A page has 100 objects unless the client says how many it takes. An update of part of a property gives the whole
  property that was asked for, also where partial updates are wanted.
- A collector knows its last version and the one before, for a client that lost the answer; any other one is answered
  with InvalidCollectorVersion. A session that ends while it waits for updates is answered with NotAuthenticated.
- VMs of a host that is not connected are shown as disconnected with the power state they had; operations on them are
  refused with HostNotConnected, and the host's ``config`` and ``hardware`` are unset.
- A privilege that a cluster or folder lacks its hosts and VMs lack too. Only privileges are simulated, not roles.
- A standalone ESXi host has no REST API, no provisioning checker, and refuses vMotion with NotSupported.
- Not there at all: events, alarms, snapshots, distributed switches, storage DRS, HA's restarts, linked vCenters.
"""

from __future__ import annotations

from tests.vsphere.fake.plans import ClusterPlan, DatastorePlan, HostPlan, VmPlan
from tests.vsphere.fake.process import FakeProcess
from tests.vsphere.fake.vcenter import FakeVcenter

__all__ = ["ClusterPlan", "DatastorePlan", "FakeProcess", "FakeVcenter", "HostPlan", "VmPlan"]
