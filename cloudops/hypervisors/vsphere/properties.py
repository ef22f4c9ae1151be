"""Reads properties of many objects at once through vSphere's PropertyCollector, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl

from cloudops.hypervisors.port import HypervisorError
from cloudops.hypervisors.vsphere.link import Link

PAGE_OBJECTS = 250
"""Objects per answer: vCenter cuts larger ones off at its own limits anyway."""

Wanted = Mapping[type[Any], Sequence[str]]
"""Which properties of which managed objects."""

_Collector = vmodl.query.PropertyCollector


@dataclass(frozen=True, slots=True)
class Row:
    """An object and those of its properties that it has; a property that may not be read is in ``denied``."""

    obj: Any
    values: Mapping[str, Any]
    denied: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """The object's own name within this vCenter: ``vm-42``."""
        return str(self.obj._moId)


def collect(link: Link, wanted: Wanted) -> list[Row]:
    """Every object of the wanted kinds anywhere below the root folder. Objects that vanish meanwhile are left out."""
    with container_view(link, wanted) as view:
        return _retrieve(link, filter_spec(view, wanted))


def read(link: Link, obj: Any, paths: Sequence[str]) -> Mapping[str, Any]:
    """Properties of one object. Raises ManagedObjectNotFound when it is gone."""
    rows = read_around(link, obj, (), {type(obj): paths})
    if not rows:
        raise vmodl.fault.ManagedObjectNotFound(obj=obj)
    return rows[0].values


def read_around(link: Link, obj: Any, along: Sequence[str], wanted: Wanted) -> list[Row]:
    """An object and what its properties ``along`` refer to, in one request; the wanted properties of each kind. Raises
    ManagedObjectNotFound when the object is gone."""
    steps = [_Collector.TraversalSpec(name=path, type=type(obj), path=path, skip=False) for path in along]
    spec = _Collector.FilterSpec(
        objectSet=[_Collector.ObjectSpec(obj=obj, selectSet=steps)],
        propSet=[_Collector.PropertySpec(type=kind, pathSet=list(paths)) for kind, paths in wanted.items()],
    )
    return _retrieve(link, spec)


@contextmanager
def container_view(link: Link, wanted: Wanted) -> Iterator[vim.view.ContainerView]:
    """A view of all objects of these kinds, which vSphere keeps until the end of the block."""
    view = create_view(link, wanted)
    try:
        yield view
    finally:
        destroy(view)


def create_view(link: Link, wanted: Wanted) -> vim.view.ContainerView:
    """A view for as long as the login lives, or until :func:`destroy`."""
    if link.content.viewManager is None:
        raise HypervisorError("This vSphere offers no view manager.")
    return link.content.viewManager.CreateContainerView(link.content.rootFolder, list(wanted), True)


def destroy(view: vim.view.ContainerView) -> None:
    """Lets vSphere forget the view; what it forgot already, or cannot be told, it forgets with the login."""
    try:
        view.DestroyView()
    except (vmodl.MethodFault, OSError):
        return


def filter_spec(view: vim.view.ContainerView, wanted: Wanted) -> vmodl.query.PropertyCollector.FilterSpec:
    """The wanted properties of what the view shows."""
    through = _Collector.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)
    return _Collector.FilterSpec(
        objectSet=[_Collector.ObjectSpec(obj=view, skip=True, selectSet=[through])],
        propSet=[_Collector.PropertySpec(type=kind, pathSet=list(paths)) for kind, paths in wanted.items()],
        reportMissingObjectsInResults=True,
    )


def row(content: vmodl.query.PropertyCollector.ObjectContent) -> Row:
    """One object's answer."""
    values = {one.name: one.val for one in content.propSet or ()}
    denied = tuple(one.path for one in content.missingSet or () if isinstance(one.fault, vmodl.fault.SecurityError))
    return Row(content.obj, values, denied)


def kind_name(kind: type[Any]) -> str:
    """``vim.HostSystem`` of the class."""
    return str(VmomiSupport.GetVmodlName(kind))


def _retrieve(link: Link, spec: vmodl.query.PropertyCollector.FilterSpec) -> list[Row]:
    collector = link.content.propertyCollector
    rows: list[Row] = []
    answer = collector.RetrievePropertiesEx([spec], _Collector.RetrieveOptions(maxObjects=PAGE_OBJECTS))
    while answer is not None:
        rows += [row(one) for one in answer.objects or ()]
        if not answer.token:
            break
        answer = collector.ContinueRetrievePropertiesEx(answer.token)
    return rows
