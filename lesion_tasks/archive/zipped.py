"""A zip file of pictures -> the bytes of each, by ISIC id, without unpacking it.

The directory at its end is read entry by entry and kept as 33 bytes for each picture, where `zipfile` keeps over 500:
half a million pictures take 17 MB. Nothing in the file is trusted. A name is read only for the id in it and never
becomes a path or key; a member yields no more bytes than its caller allows, whatever its header announces.

The format is that of PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.3 (zip64).
"""

import os
import re
import struct
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import OversizedError
from lesion_tasks.archive.printable import printable

# In any folder, and with an extension in upper or lower case; Windows' path separator occurs too.
_MEMBER_NAME = re.compile(rb"((?:[^/\\]+[/\\])*)ISIC_([0-9]{7})\.((?i:jpg|jpeg|png|tif|tiff))")
_NO_FOLDERS = frozenset({b".", b"..", b"__MACOSX"})  # the last: macOS's own data about each file
EXTENSIONS = ("jpg", "jpeg", "png", "tif", "tiff")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1  # bit of the flags

_END = struct.Struct("<4s4H2LH")  # end of central directory, without its comment
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")  # one entry of the central directory, without name, extra and comment
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 65_535
_FULL_32 = 0xFFFFFFFF  # the value is in the zip64 extra

_MEMBER = np.dtype(
    [
        ("number", "<u4"),  # of the id
        ("offset", "<u8"),
        ("packed_bytes", "<u8"),
        ("size_bytes", "<u8"),
        ("crc", "<u4"),
        ("extension", "u1"),
        ("method", "u1"),  # 255: encrypted
    ]
)
_PACKED_MEMBER = struct.Struct("<LQQQLBB")
_UNREADABLE = 255


class DamagedFileError(Exception):
    """A file is there but its bytes are not what they should be: another attempt will not change that."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One picture in a zip file."""

    name: str
    offset: int
    packed_bytes: int
    size_bytes: int
    crc: int
    method: int


class ZippedPictures:
    """The pictures of a zip file. Reading is safe from several threads at once."""

    def __init__(self, path: Path) -> None:
        """Read the directory.

        Raises UnusableInputError if it is not a zip file, is truncated, or has two pictures of one id.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                packed = bytearray()
                for entry in _entries(file):
                    packed += _PACKED_MEMBER.pack(*(getattr(entry, name) for name in _MEMBER.names or ()))
        except (OSError, struct.error, ValueError, OverflowError) as error:
            raise UnusableInputError(f"{path}: {error}; expected a complete zip file") from error
        members = np.frombuffer(bytes(packed), _MEMBER)
        self._numbers, first = np.unique(members["number"], return_index=True)
        if len(self._numbers) < len(members):
            raise self._doubled(members["number"])
        self._members = members[first]
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def _doubled(self, numbers: np.ndarray) -> UnusableInputError:
        """Name the entries of the lowest repeated id. Readers differ in which of two they take, so neither is taken."""
        found, counts = np.unique(numbers, return_counts=True)
        several = found[counts > 1]
        with self.path.open("rb") as file:
            names = [
                printable(entry.name.decode("utf-8", "replace"), 120)
                for entry in _entries(file)
                if entry.number == several[0]
            ]
        more = f", and {len(several) - 1} more like it" if len(several) > 1 else ""
        return UnusableInputError(
            f"{self.path}: found {' and '.join(names[:5])}{more}; expected one picture of each id"
        )

    def __len__(self) -> int:
        return len(self._numbers)

    def member(self, isic_id: str) -> Member | None:
        """Return what the directory says about an id's picture; None if it has none."""
        number = int(isic_id.removeprefix("ISIC_"))
        index = int(np.searchsorted(self._numbers, number))
        if index == len(self._numbers) or self._numbers[index] != number:
            return None
        row = self._members[index]
        return Member(
            name=f"images/{isic_id}.{EXTENSIONS[row['extension']]}",
            offset=int(row["offset"]),
            packed_bytes=int(row["packed_bytes"]),
            size_bytes=int(row["size_bytes"]),
            crc=int(row["crc"]),
            method=int(row["method"]),
        )

    def read(self, isic_id: str, *, max_bytes: int) -> bytes:
        """Return a picture's bytes.

        Raises FileNotFoundError if there is none, OversizedError for more than `max_bytes`, and DamagedFileError if
        the bytes are not those that were packed.
        """
        member = self.member(isic_id)
        if member is None:
            raise FileNotFoundError(f"{self.path}: no picture of {isic_id}")
        if max(member.size_bytes, member.packed_bytes) > max_bytes:
            raise OversizedError(f"{member.size_bytes} bytes announced, expected at most {max_bytes}")
        data = _unpacked(self._packed(member), member, max_bytes)
        if len(data) != member.size_bytes:
            raise DamagedFileError(f"{len(data)} bytes, {member.size_bytes} announced in {self.path.name}")
        if zlib.crc32(data) != member.crc:
            raise DamagedFileError(f"checksum does not match the one in {self.path.name}")
        return data

    def _packed(self, member: Member) -> bytes:
        header = os.pread(self._descriptor, _LOCAL.size, member.offset)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
            raise DamagedFileError(f"no member at byte {member.offset} of {self.path.name}")
        *_, name_length, extra_length = _LOCAL.unpack(header)
        start = member.offset + _LOCAL.size + name_length + extra_length
        return _pread(self._descriptor, member.packed_bytes, start)


def _pread(descriptor: int, n_bytes: int, start: int) -> bytes:
    pieces = []
    while n_bytes and (piece := os.pread(descriptor, min(n_bytes, 2**24), start)):
        pieces.append(piece)
        start += len(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


def _unpacked(packed: bytes, member: Member, max_bytes: int) -> bytes:
    if member.method == _STORED:
        return packed
    if member.method != _DEFLATED:
        found = "encrypted" if member.method == _UNREADABLE else f"packed by method {member.method}"
        raise DamagedFileError(f"{found}, expected stored or deflated")
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than announced is enough to show that the announced size is wrong.
        data = unpacking.decompress(packed, min(member.size_bytes, max_bytes) + 1)
    except zlib.error as error:
        raise DamagedFileError(str(error)) from error
    return data


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """What the central directory says of a picture: its name, and the fields of `_MEMBER`."""

    name: bytes
    number: int
    offset: int
    packed_bytes: int
    size_bytes: int
    crc: int
    extension: int
    method: int


def _entries(file: BinaryIO) -> Iterator[_Entry]:
    """Yield each picture in the central directory."""
    n_entries, n_bytes, start, shift = _directory(file)
    file.seek(start)
    for _ in range(n_entries):
        fixed = file.read(_ENTRY.size)
        n_bytes -= len(fixed)
        if len(fixed) < _ENTRY.size or not fixed.startswith(b"PK\x01\x02") or n_bytes < 0:
            raise ValueError("its directory is truncated or damaged")
        (_, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, *_, offset) = (
            _ENTRY.unpack(fixed)
        )
        name, extra = file.read(n_name), file.read(n_extra)
        file.seek(n_comment, os.SEEK_CUR)
        n_bytes -= n_name + n_extra + n_comment
        found = _MEMBER_NAME.fullmatch(name)
        if found is None or _NO_FOLDERS.intersection(re.split(rb"[/\\]", found[1])):
            continue
        if _FULL_32 in (packed, size, offset):
            size, packed, offset = _from_zip64(extra, size, packed, offset)
        method = _UNREADABLE if flags & _ENCRYPTED or method >= _UNREADABLE else method
        extension = EXTENSIONS.index(found[3].decode().lower())
        yield _Entry(
            name=name,
            number=int(found[2]),
            offset=offset + shift,
            packed_bytes=packed,
            size_bytes=size,
            crc=crc,
            extension=extension,
            method=method,
        )


def _directory(file: BinaryIO) -> tuple[int, int, int, int]:
    """Return the directory's entries, length and start, and by how much offsets in it must be shifted."""
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - _END.size - _LONGEST_COMMENT)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END.size + 4)
    if at < 0:
        raise ValueError(f"no end of a zip directory in its {length} bytes")
    *_, n_entries, n_bytes, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    locator_at = at - _END64_LOCATOR.size
    if locator_at >= 0 and tail.startswith(b"PK\x06\x07", locator_at):
        _, _, end64_start, _ = _END64_LOCATOR.unpack_from(tail, locator_at)
        file.seek(end64_start)
        record = file.read(_END64.size)
        if not record.startswith(b"PK\x06\x06"):
            raise ValueError("its zip64 directory is not where it should be")
        *_, n_entries, n_bytes, start = _END64.unpack(record)
        end = end64_start
    # Bytes before the first member (a self-extracting archive) move everything.
    shift = end - n_bytes - start
    if shift < 0 or start + shift < 0:
        raise ValueError("its directory is longer than the file")
    return n_entries, n_bytes, start + shift, shift


def _from_zip64(extra: bytes, *values: int) -> list[int]:
    """Return size, packed size and offset, with every saturated 32-bit value replaced by its 64-bit one."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            full = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
            return [next(full, value) if value == _FULL_32 else value for value in values]
        extra = extra[4 + length :]
    return list(values)
