"""Members of a zip archive as PyTorch writes it: stored, not compressed, each name once."""

import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from mmap import mmap
from typing import NamedTuple

from jaxperturb.checkpoints.stored import Segment, brief
from jaxperturb.errors import CheckpointError

MAX_MEMBERS = 50_000
TRUNCATED = "the file is truncated or damaged; get it again"

LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64_LOCATOR = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")
MAX32 = 0xFFFFFFFF


class Directory(NamedTuple):
    """Where the list of members lies, as the end of the archive says."""

    members: int
    size: int
    start: int


class Entry(NamedTuple):
    """One member as the directory describes it."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


def zip_entries(data: mmap) -> tuple[list[Entry], int]:
    """Returns the archive's members as its directory describes them, and where the directory begins.

    Raises:
        CheckpointError: the archive is truncated or has far too many members.
    """
    directory = _directory(data)
    return _entries(data, directory), directory.start


def zip_members(data: mmap, entries: list[Entry], end: int) -> Mapping[str, Segment]:
    """Returns the place of each member's bytes.

    Checksums are stated only if the archive has any: PyTorch can be told to leave them out, and then writes zeros.

    Args:
        data: the archive.
        entries: its members.
        end: where its directory begins.

    Raises:
        CheckpointError: members are compressed, encrypted, named twice, overlap, or lie about their sizes.
    """
    name, times = Counter(entry.name for entry in entries).most_common(1)[0] if entries else ("", 0)
    if times > 1:
        raise CheckpointError(f"it names the member {brief(name)} {times} times; only one can be meant, so refused")
    for entry in entries:
        _check_plain(entry)
    checked = any(entry.crc for entry in entries)
    members = {e.name: Segment(_data_start(data, e), e.size, e.crc if checked else None) for e in entries}
    _check_apart(entries, members, end)
    return members


def member_bytes(data: mmap, segment: Segment, limit: int, name: str) -> bytes:
    """Returns the bytes of a small member, checked against its checksum.

    Raises:
        CheckpointError: it is larger than `limit` bytes, or damaged.
    """
    if segment.size > limit:
        raise CheckpointError(f"its {name} has {segment.size} bytes, expected up to {limit}; refused")
    raw = data[segment.start : segment.start + segment.size]
    if segment.crc is not None and zlib.crc32(raw) != segment.crc:
        raise CheckpointError(f"the checksum of its {name} does not fit; {TRUNCATED}")
    return raw


def _directory(data: mmap) -> Directory:
    position = data.rfind(b"PK\5\6", max(0, len(data) - END.size - 0xFFFF))
    if position < 0 or position + END.size > len(data):
        raise CheckpointError(f"it begins as a zip archive but has no end record; {TRUNCATED}")
    _, disk, first_disk, here, count, size, start, comment = END.unpack_from(data, position)
    if position + END.size + comment != len(data) or disk or first_disk or here != count:
        raise CheckpointError(f"the end record of its zip archive is wrong; {TRUNCATED}")
    if 0xFFFF in (here, count) or MAX32 in (size, start):
        count, size, start, position = _directory64(data, position)
    if start + size > position:
        raise CheckpointError(f"the list of members of its zip archive lies outside the file; {TRUNCATED}")
    if count > MAX_MEMBERS or size > MAX_MEMBERS * 512:
        raise CheckpointError(f"its zip archive has {count} members, more than any state dict; refused")
    return Directory(count, size, start)


def _directory64(data: mmap, end: int) -> tuple[int, int, int, int]:
    locator = end - END64_LOCATOR.size
    if locator < 0 or data[locator : locator + 4] != b"PK\6\7":
        raise CheckpointError(f"its zip archive lacks the record of its large sizes; {TRUNCATED}")
    position = END64_LOCATOR.unpack_from(data, locator)[2]
    if position + END64.size > locator or data[position : position + 4] != b"PK\6\6":
        raise CheckpointError(f"its zip archive lacks the record of its large sizes; {TRUNCATED}")
    count, size, start = END64.unpack_from(data, position)[7:]
    return count, size, start, position


def _entries(data: mmap, directory: Directory) -> list[Entry]:
    position, stop = directory.start, directory.start + directory.size
    entries = []
    for _ in range(directory.members):
        if position + CENTRAL.size > stop or data[position : position + 4] != b"PK\1\2":
            raise CheckpointError(f"the list of members of its zip archive is cut short; {TRUNCATED}")
        fields = CENTRAL.unpack_from(data, position)
        name_size, extra_size, comment_size = fields[10:13]
        text = position + CENTRAL.size
        position = text + name_size + extra_size + comment_size
        if position > stop:
            raise CheckpointError(f"the list of members of its zip archive is cut short; {TRUNCATED}")
        extra = data[text + name_size : text + name_size + extra_size]
        entries.append(_entry(fields, data[text : text + name_size], extra))
    return entries


def _entry(fields: tuple, raw_name: bytes, extra: bytes) -> Entry:
    flags, method, crc, packed, size, header = fields[3], fields[4], fields[7], fields[8], fields[9], fields[16]
    try:
        name = raw_name.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"a member of its zip archive has a name that is no UTF-8; {TRUNCATED}") from error
    size, packed, header = _large(extra, [size, packed, header])
    return Entry(name, flags, method, crc, packed, size, header)


def _check_plain(entry: Entry) -> None:
    name = brief(entry.name)
    if entry.method or entry.flags & 1:
        how = "encrypted" if entry.flags & 1 else "compressed"
        raise CheckpointError(f"its member {name} is {how}, which torch.save never does; zip it again uncompressed")
    if entry.packed != entry.size:
        raise CheckpointError(f"its member {name} has {entry.packed} bytes but declares {entry.size}; {TRUNCATED}")


def _large(extra: bytes, sizes: list[int]) -> list[int]:
    """Takes from the zip64 extra field each number that did not fit into 32 bits."""
    if MAX32 not in sizes:
        return sizes
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if kind == 1 and len(body) >= 8 * sizes.count(MAX32):
            numbers = iter(struct.unpack_from(f"<{len(body) // 8}Q", body))
            return [next(numbers) if n == MAX32 else n for n in sizes]
        position += 4 + length
    raise CheckpointError(f"a member of its zip archive lacks the record of its large size; {TRUNCATED}")


def _data_start(data: mmap, entry: Entry) -> int:
    if entry.header + LOCAL.size > len(data) or data[entry.header : entry.header + 4] != b"PK\3\4":
        raise CheckpointError(f"its member {brief(entry.name)} is not where the list says; {TRUNCATED}")
    fields = LOCAL.unpack_from(data, entry.header)
    name_start = entry.header + LOCAL.size
    if fields[3] or data[name_start : name_start + fields[9]] != entry.name.encode():
        raise CheckpointError(f"its member {brief(entry.name)} is described in two ways; {TRUNCATED}")
    return name_start + fields[9] + fields[10]


def _check_apart(entries: list[Entry], members: Mapping[str, Segment], end: int) -> None:
    """Members may not overlap: many names for the same bytes make a small file look large."""
    ordered = sorted(entries, key=lambda entry: entry.header)
    limits = [entry.header for entry in ordered[1:]] + [end]
    for entry, limit in zip(ordered, limits, strict=True):
        segment = members[entry.name]
        if segment.start + segment.size > limit:
            raise CheckpointError(f"its member {brief(entry.name)} runs into what follows; {TRUNCATED}")
