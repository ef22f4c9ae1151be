"""SOAP as pyVmomi speaks it: requests into method, object and arguments; results, faults and properties into text."""

from __future__ import annotations

import base64
import copy
import io
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape

from pyVmomi import Iso8601, SoapAdapter

from tests.vsphere.fake.types import NAMESPACE, support, vmodl

XSI = "http://www.w3.org/2001/XMLSchema-instance"
XSD = "http://www.w3.org/2001/XMLSchema"
ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
PREFIXES = {NAMESPACE: "", XSI: "xsi", XSD: "xsd"}
HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    f'<soapenv:Envelope xmlns:soapenv="{ENVELOPE}" xmlns:xsd="{XSD}" xmlns:xsi="{XSI}"><soapenv:Body>'
)
TAIL = "</soapenv:Body></soapenv:Envelope>"

object_info: Any = support.Object
parse_time: Any = Iso8601.ParseISO8601

_base: Any = SoapAdapter.SoapSerializer


class _Serializer(_base):  # type: ignore[misc]
    """pyVmomi's, which as a client's refuses empty arrays where a server answers them."""

    def _Serialize(self, val: Any, info: Any, defNS: str) -> None:
        if isinstance(val, list) and not val and info.type is not object:
            return
        super()._Serialize(val, info, defNS)


class BadRequest(Exception):
    """What came is no SOAP request of the vSphere API."""


@dataclass(frozen=True)
class Request:
    """``parts``: the arguments' elements by name, in order."""

    name: str
    this: Any
    parts: dict[str, list[ET.Element]]

    def arguments(self, parameters: Any) -> dict[str, Any]:
        """The arguments as the method's parameters type them; what was not sent is left out."""
        found = {}
        for parameter in parameters:
            elements = self.parts.get(parameter.name)
            if elements is None:
                continue
            if issubclass(parameter.type, list):
                found[parameter.name] = parameter.type([read(one, parameter.type.Item) for one in elements])
            else:
                found[parameter.name] = read(elements[0], parameter.type)
        return found

    def text(self, name: str) -> str:
        return self.parts[name][0].text or ""


def parse(body: bytes) -> Request:
    """Raises: BadRequest."""
    try:
        element = ET.fromstring(body).find(f"{{{ENVELOPE}}}Body")  # noqa: S314 - a test double, on loopback
    except ET.ParseError as error:
        raise BadRequest(str(error)) from error
    if element is None or not len(element):
        raise BadRequest("no body")
    call = element[0]
    parts: dict[str, list[ET.Element]] = {}
    for child in call:
        parts.setdefault(_plain(child.tag), []).append(child)
    if "_this" not in parts:
        raise BadRequest("no _this")
    this = read(parts.pop("_this")[0], support.ManagedObject)
    return Request(_plain(call.tag), this, parts)


def _plain(tag: str) -> str:
    return tag.rpartition("}")[2]


def read(element: ET.Element, expected: Any) -> Any:
    """One value of a request."""
    declared = element.get(f"{{{XSI}}}type")
    if declared and expected not in (support.PropertyPath, type):
        expected = support.GuessWsdlType(declared.split(":")[-1])
    reference = element.get("type")
    if reference and (expected is object or issubclass(expected, support.ManagedObject)):
        return support.GetWsdlType(NAMESPACE, reference)(element.text, None)
    if issubclass(expected, list):
        return expected([read(child, expected.Item) for child in element])
    if issubclass(expected, support.DataObject):
        return _read_object(element, expected)
    return _read_text(element.text or "", expected)


def _read_object(element: ET.Element, expected: Any) -> Any:
    made = expected()
    for child in element:
        info = made._GetPropertyInfo(_plain(child.tag))
        if issubclass(info.type, list):
            getattr(made, info.name).append(read(child, info.type.Item))
        else:
            setattr(made, info.name, read(child, info.type))
    return made


def _read_text(text: str, expected: Any) -> Any:
    if expected is object:
        return text
    if expected is bool:
        return text in ("true", "1")
    if expected is type:
        return support.GuessWsdlType(text)
    if expected is datetime:
        return parse_time(text)
    if expected is support.binary:
        return expected(base64.b64decode(text))
    return expected(text)


def serialize(value: Any, name: str, kind: Any, flags: int, version: str) -> str:
    """A value as the element ``name``; "" where there is none."""
    if value is None:
        return ""
    writer = io.StringIO()
    one = _Serializer(writer, version, dict(PREFIXES))
    one.outermostAttrs = ""
    one.Serialize(value, object_info(name=name, type=kind, flags=flags, version=support.BASE_VERSION))
    return writer.getvalue()


def any_value(value: Any, version: str) -> str:
    """A property's value as ``val``, typed by itself."""
    return serialize(value, "val", object, support.F_OPTIONAL, version)


def reference(name: str, ref: Any) -> str:
    return f'<{name} type="{support.GetWsdlName(type(ref))}">{escape(ref._moId)}</{name}>'


def response(name: str, content: str) -> bytes:
    return f'{HEAD}<{name}Response xmlns="{NAMESPACE}">{content}</{name}Response>{TAIL}'.encode()


def fault(detail: Any, version: str) -> bytes:
    """``detail``'s own message is the fault string; the client's version may know only a parent of its type."""
    kind = support.GetCompatibleType(type(detail), version)
    message = detail.msg or kind._wsdlName
    bare = copy.copy(detail)
    bare.msg = None
    name = f"{kind._wsdlName}Fault"
    writer = io.StringIO()
    one = _Serializer(writer, version, dict(PREFIXES))
    one.outermostAttrs = ""
    info = object_info(name=name, type=kind, flags=0, version=support.BASE_VERSION)
    one._SerializeDataObject(bare, info, f' xmlns="{NAMESPACE}" xsi:type="{kind._wsdlName}"', NAMESPACE)
    inner = writer.getvalue()
    return (
        f"{HEAD}<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{escape(message)}</faultstring>"
        f"<detail>{inner}</detail></soapenv:Fault>{TAIL}"
    ).encode()


def is_known(version: str) -> bool:
    return version in support.versionMap


def method_info(name: str) -> Any:
    """pyVmomi's description of a method by its WSDL name. Raises: BadRequest."""
    try:
        return support.GetWsdlMethod(NAMESPACE, name).info
    except KeyError as error:
        raise BadRequest(f"no method {name}") from error


RUNTIME_FAULT = vmodl.RuntimeFault
