"""PNG from raw pixels (RFC 2083) with the standard library alone."""

from __future__ import annotations

import re
import struct
import zlib

from cloudops.hypervisors.port import HypervisorError

_PPM_HEADER = re.compile(rb"P6\s(?:#[^\n]*\n|\s)*(\d+)\s+(\d+)\s+255\s")


def rgb_to_png(width: int, height: int, pixels: bytes) -> bytes:
    """``pixels``: three bytes each, rows from the top."""
    stride = width * 3
    rows = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, stride * height, stride))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def ppm_to_png(data: bytes) -> bytes:
    """From the binary portable pixmap that QEMU before 7.1 writes. Raises HypervisorError when it is something else."""
    header = _PPM_HEADER.match(data)
    if header is None:
        raise HypervisorError("The picture of the display is in a format CloudOps does not read.")
    width, height = int(header[1]), int(header[2])
    pixels = data[header.end() :]
    if len(pixels) < width * height * 3:
        raise HypervisorError(f"The picture of the display is cut short: {len(pixels)} of {width * height * 3} bytes.")
    return rgb_to_png(width, height, pixels)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
