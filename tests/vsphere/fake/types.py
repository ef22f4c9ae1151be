"""pyVmomi's types for the fake: as ``Any``, because their constructors are untyped; and faults on their way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

from pyVmomi import VmomiSupport
from pyVmomi import vim as typed_vim
from pyVmomi import vmodl as typed_vmodl

vim: Any = typed_vim
vmodl: Any = typed_vmodl
support: Any = VmomiSupport

NAMESPACE = "urn:vim25"


def array(item: str, values: Iterable[Any]) -> Any:
    """A typed array, which the serialiser needs where a property's type is not declared."""
    return support.GetVmodlType(f"{item}[]")(list(values))


@cache
def _required(kind: Any) -> tuple[tuple[str, Callable[[], Any]], ...]:
    return tuple(
        (one.name, _neutral(one.type))
        for one in kind._GetPropertyList()
        if not one.flags & support.F_OPTIONAL and not issubclass(one.type, list)
    )


@cache
def _composed(kind: Any) -> tuple[str, ...]:
    """Properties that may hold data objects."""
    kinds = (list, support.DataObject)
    return tuple(one.name for one in kind._GetPropertyList() if one.type is object or issubclass(one.type, kinds))


def _neutral(kind: Any) -> Callable[[], Any]:
    if issubclass(kind, support.Enum):
        first = next(value for value in vars(kind).values() if isinstance(value, kind))
        return lambda: first
    if issubclass(kind, support.DataObject):
        return lambda: filled(kind())
    if issubclass(kind, support.ManagedObject):
        return lambda: kind("none-0")
    if kind is datetime:
        return lambda: datetime(2026, 1, 1, tzinfo=UTC)
    if kind is type:
        return lambda: vim.ManagedEntity
    return lambda: kind()


def filled(value: Any) -> Any:
    """The data object, with what the API requires and nobody set at a neutral value: the serialiser refuses None."""
    for name, neutral in _required(cast(Hashable, type(value))):
        if getattr(value, name) is None:
            setattr(value, name, neutral())
    for name in _composed(cast(Hashable, type(value))):
        inner = getattr(value, name)
        if isinstance(inner, support.DataObject):
            filled(inner)
        elif isinstance(inner, list):
            for item in inner:
                if isinstance(item, support.DataObject):
                    filled(item)
    return value


def fault(kind: Any, message: str, **values: Any) -> Any:
    """A fault ready to be raised, its required fields filled in."""
    made = filled(kind(**values))
    made.msg = message
    return made


class Fault(Exception):
    """A vSphere fault on its way to the client (pyVmomi's own fault classes are exceptions only in name)."""

    def __init__(self, detail: Any) -> None:
        super().__init__(detail.msg)
        self.detail = detail


def refuse(kind: Any, message: str, **values: Any) -> Fault:
    """``raise refuse(vim.fault.InvalidLogin, "…")``."""
    return Fault(fault(kind, message, **values))
