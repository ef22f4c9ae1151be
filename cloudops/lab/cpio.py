"""Writes an initramfs archive: the ``newc`` cpio format (Linux, driver-api/early-userspace/buffer-format)."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass(slots=True)
class CpioArchive:
    """An archive in memory. Everything belongs to root and has time 0, so that equal content gives equal bytes."""

    _parts: list[bytes] = field(default_factory=list)
    _inode: int = 1

    def directory(self, path: str) -> None:
        self._entry(path, stat.S_IFDIR | 0o755)

    def file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        self._entry(path, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def symlink(self, path: str, target: str) -> None:
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        self._entry(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self) -> bytes:
        """The whole archive, trailer included."""
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)

    def _entry(self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        name = path.encode() + b"\0"
        # ino, mode, uid, gid, nlink, mtime, filesize, dev major/minor, rdev major/minor, namesize, check
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        self._inode += 1
        header = b"070701" + b"".join(b"%08X" % value for value in fields)
        self._parts += [_padded(header + name), _padded(data)]


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
