"""The property collector: which objects a filter selects, their properties as text, and what changed since."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.vsphere.fake import soap
from tests.vsphere.fake.entities import Entity, View
from tests.vsphere.fake.types import refuse, support, vmodl
from tests.vsphere.fake.world import World

Texts = dict[str, str]


def selected(world: World, spec: Any) -> dict[str, tuple[Entity, tuple[str, ...]]]:
    """The objects of a FilterSpec by id, each with the paths asked of it. Raises: ManagedObjectNotFound."""
    found: dict[str, tuple[Entity, tuple[str, ...]]] = {}
    paths: dict[type, tuple[str, ...]] = {}
    for object_spec in spec.objectSet:
        start = world.find(object_spec.obj)
        if start is None:
            if spec.reportMissingObjectsInResults:
                continue
            raise refuse(vmodl.fault.ManagedObjectNotFound, "The object has already been deleted", obj=object_spec.obj)
        for entity in _Walk(world, object_spec).objects(start):
            kind = type(entity.ref)
            if kind not in paths:
                paths[kind] = _paths(entity, spec.propSet)
            if paths[kind]:
                found[entity.mo_id] = (entity, paths[kind])
    return found


def _paths(entity: Entity, property_specs: Any) -> tuple[str, ...]:
    wanted: dict[str, None] = {}
    for one in property_specs:
        if isinstance(entity.ref, one.type):
            wanted.update(dict.fromkeys(entity.readers if one.all else one.pathSet))
    return tuple(wanted)


class _Walk:
    def __init__(self, world: World, object_spec: Any) -> None:
        self._world = world
        self._spec = object_spec
        self._named: dict[str, Any] = {}
        self._seen: set[tuple[str, int]] = set()
        self._found: dict[str, Entity] = {}
        self._name(object_spec.selectSet)

    def objects(self, start: Entity) -> list[Entity]:
        if not self._spec.skip:
            self._found[start.mo_id] = start
        for selection in self._spec.selectSet:
            self._follow(start, selection)
        return list(self._found.values())

    def _name(self, selections: Any) -> None:
        for one in selections:
            if isinstance(one, vmodl.query.PropertyCollector.TraversalSpec):
                if one.name:
                    self._named[one.name] = one
                self._name(one.selectSet)

    def _follow(self, entity: Entity, selection: Any) -> None:
        if not isinstance(selection, vmodl.query.PropertyCollector.TraversalSpec):
            selection = self._named.get(selection.name)
        if selection is None or not isinstance(entity.ref, selection.type):
            return
        if (entity.mo_id, id(selection)) in self._seen:
            return
        self._seen.add((entity.mo_id, id(selection)))
        for target in self._targets(entity, selection.path):
            if not selection.skip:
                self._found[target.mo_id] = target
            for further in selection.selectSet:
                self._follow(target, further)

    def _targets(self, entity: Entity, path: str) -> list[Entity]:
        if isinstance(entity, View) and path == "view":
            return self._world.shown(entity)
        value = entity.value(path)
        refs = value if isinstance(value, list) else [value]
        found = [self._world.find(ref) for ref in refs if isinstance(ref, support.ManagedObject)]
        return [one for one in found if one is not None]


def texts(entity: Entity, paths: tuple[str, ...], version: str) -> Texts:
    """The properties that are set, each as the element ``val``. Raises: InvalidProperty."""
    found = {}
    for path in paths:
        known = entity.texts.get((version, path))
        if known is None:
            known = soap.any_value(entity.value(path), version)
            entity.texts[version, path] = known
        if known:
            found[path] = known
    return found


def content(entity: Entity, paths: tuple[str, ...], version: str) -> str:
    """The object as an ObjectContent."""
    inner = "".join(
        f"<propSet><name>{name}</name>{value}</propSet>" for name, value in texts(entity, paths, version).items()
    )
    return f"<objects>{soap.reference('obj', entity.ref)}{inner}</objects>"


@dataclass
class _Known:
    entity: Entity
    revision: int
    texts: Texts


@dataclass(eq=False)
class Filter:
    """What its client was told last, object by object; so only differences are sent."""

    ref: Any
    spec: Any
    version: str
    known: dict[str, _Known] = field(default_factory=dict)
    _members: dict[str, tuple[Entity, tuple[str, ...]]] = field(default_factory=dict)
    _structure: int = 0

    def reset(self) -> None:
        self.known.clear()
        self._structure = 0

    def updates(self, world: World, limit: int) -> tuple[list[str], bool]:
        """At most ``limit`` objects' updates, and whether there are more."""
        if self._structure != world.structure:
            self._members = selected(world, self.spec)
            self._structure = world.structure
        found: list[str] = []
        for mo_id in [one for one in self.known if one not in self._members]:
            if len(found) >= limit:
                return found, True
            found.append(_object_update("leave", self.known.pop(mo_id).entity.ref, ""))
        for mo_id, (entity, paths) in self._members.items():
            known = self.known.get(mo_id)
            if known is not None and known.revision == entity.revision:
                continue
            if len(found) >= limit:
                return found, True
            if one := self._difference(mo_id, entity, paths, known):
                found.append(one)
        return found, False

    def _difference(self, mo_id: str, entity: Entity, paths: tuple[str, ...], known: _Known | None) -> str:
        now = texts(entity, paths, self.version)
        self.known[mo_id] = _Known(entity, entity.revision, now)
        before = known.texts if known else {}
        changes = [(name, value) for name, value in now.items() if before.get(name) != value]
        changes += [(name, "") for name in before if name not in now]
        if known is not None and not changes:
            return ""
        inner = "".join(f"<changeSet><name>{name}</name><op>assign</op>{value}</changeSet>" for name, value in changes)
        return _object_update("modify" if known else "enter", entity.ref, inner)


def _object_update(kind: str, ref: Any, inner: str) -> str:
    return f"<objectSet><kind>{kind}</kind>{soap.reference('obj', ref)}{inner}</objectSet>"


@dataclass(eq=False)
class Collector:
    """Filters and the version their client has. The answer to the version before is kept, for a client that lost it."""

    ref: Any
    filters: dict[str, Filter] = field(default_factory=dict)
    version: int = 0
    asked_with: str = ""
    answered: str = ""
    cancelled: int = 0

    def knows(self, version: str) -> bool:
        return version == str(self.version) and self.version > 0

    def reset(self) -> None:
        for one in self.filters.values():
            one.reset()

    def collect(self, world: World, limit: int) -> str:
        """The UpdateSet as text, "" when nothing changed."""
        parts = []
        truncated = False
        for one in self.filters.values():
            updates, more = one.updates(world, limit)
            limit -= len(updates)
            truncated = truncated or more
            if updates:
                parts.append(f"<filterSet>{soap.reference('filter', one.ref)}{''.join(updates)}</filterSet>")
        if not parts:
            return ""
        self.version += 1
        mark = "true" if truncated else "false"
        return f"<returnval><version>{self.version}</version>{''.join(parts)}<truncated>{mark}</truncated></returnval>"
