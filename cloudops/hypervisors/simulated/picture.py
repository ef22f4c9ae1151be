"""The picture of a simulated VM's display."""

from __future__ import annotations

from functools import lru_cache

from cloudops.hypervisors.pictures import rgb_to_png
from cloudops.hypervisors.simulated.console import HEIGHT, ROWS, WIDTH, PixelFormat, Screen

_PIXELS = PixelFormat(bits=32, big_endian=True, shifts=(24, 16, 8))


@lru_cache(maxsize=128)
def picture(name: str) -> bytes:
    """A PNG of what a console of the VM shows at first."""
    screen = Screen(name)
    rgbx = b"".join(screen.row(row, _PIXELS) for row in range(ROWS))
    rgb = bytearray(WIDTH * HEIGHT * 3)
    for channel in range(3):
        rgb[channel::3] = rgbx[channel::4]
    return rgb_to_png(WIDTH, HEIGHT, bytes(rgb))
