"""Sizes of VMs (``ReconfigVM_Task``)."""

from __future__ import annotations

from cloudops.hypervisors.port import NotSupported, ResizeStep, ScalingState, Shape
from cloudops.hypervisors.vsphere.link import Link


def read(link: Link, vm_ref: str) -> ScalingState:
    raise NotSupported("Sizes cannot be read on vSphere yet.")


def resize(link: Link, vm_ref: str, step: ResizeStep) -> None:
    raise NotSupported("Sizes cannot be changed on vSphere yet.")


def define(link: Link, vm_ref: str, shape: Shape) -> None:
    raise NotSupported("Sizes cannot be changed on vSphere yet.")
