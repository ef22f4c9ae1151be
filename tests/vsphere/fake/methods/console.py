"""Tickets for remote displays, and what is connected."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake.entities import Vm
from tests.vsphere.fake.methods.power import reachable, wrong_power
from tests.vsphere.fake.service import Call, method
from tests.vsphere.fake.types import array, filled, refuse, vim, vmodl

CONSOLE = "VirtualMachine.Interact.ConsoleInteract"


@method("AcquireTicket", privilege=CONSOLE)
def acquire_ticket(call: Call, ticketType: str) -> Any:
    """``mks`` (port 902) is not served."""
    vm: Vm = call.entity()
    if ticketType != "webmks":
        raise refuse(
            vmodl.fault.InvalidArgument,
            "A specified parameter was not correct: ticketType",
            invalidProperty="ticketType",
        )
    reachable(vm)
    if vm.power != "poweredOn":
        raise wrong_power(vm, "poweredOn")
    consoles = call.service.consoles
    if len(consoles.of(vm)) >= vm.max_connections:
        raise refuse(
            vim.fault.MksConnectionLimitReached,
            f"The number of remote console connections reached its limit of {vm.max_connections}.",
            connectionLimit=vm.max_connections,
        )
    ticket = consoles.issue(vm, call.session.user)
    return filled(_ticket(call, vm, ticket.token))


def _ticket(call: Call, vm: Vm, token: str) -> Any:
    host = vm.host
    name = host.address if call.service.faults.ticket_host == "own" else call.service.faults.ticket_host
    kind = vim.vm.CertThumbprint
    prints = [
        kind(thumbprint=call.service.thumbprint(host, algorithm), hashAlgorithm=algorithm)
        for algorithm in ("sha1", "sha256")
    ]
    return vim.VirtualMachine.Ticket(
        ticket=token,
        cfgFile=f"/vmfs/volumes/{vm.datastore.mo_id}/{vm.name}/{vm.name}.vmx",
        host=name,
        port=host.port,
        sslThumbprint=call.service.thumbprint(host, "sha1"),
        certThumbprintList=prints,
        sslCertificate=host.certificate_pem,
        url=f"wss://{name or host.address}:{host.port}/ticket/{token}",
    )


@method("QueryConnections", privilege=CONSOLE)
def query_connections(call: Call) -> Any:
    vm: Vm = call.entity()
    reachable(vm)
    kind = vim.VirtualMachine.MksConnection
    return array(
        "vim.VirtualMachine.Connection",
        [kind(label=one.label, client=one.client, userName=one.user) for one in call.service.consoles.of(vm)],
    )


@method("DropConnections", privilege=CONSOLE)
def drop_connections(call: Call, listOfConnections: Any = ()) -> bool:
    """True when all that were named were there and are gone; without a list all are dropped."""
    vm: Vm = call.entity()
    reachable(vm)
    known = {one.label: one for one in call.service.consoles.of(vm)}
    labels = [one.label for one in listOfConnections] or list(known)
    for label in labels:
        if label in known:
            call.service.consoles.drop(known[label], 1008, "dropped")
    return all(label in known for label in labels)
