"""Weight files put together byte by byte, so that tests need no PyTorch and can make what it never would."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

PROTO = b"\x80\x02"
LEGACY_HEAD = (
    PROTO
    + b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    + PROTO
    + b"M\xe9\x03."
    + PROTO
    + b"}(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\x0d\x00\x00\x00little_endian\x88u."
)


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, member: str) -> bytes:
    return b"c" + module.encode() + b"\n" + member.encode() + b"\n"


def many(items: Sequence[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def storage(key: str, kind: str, count: int, view: bytes | None = b"") -> bytes:
    return many([text("storage"), name("torch", kind), text(key), text("cpu"), integer(count), view or b""]) + b"Q"


def tensor(stored: bytes, offset: int, shape: Sequence[int], strides: Sequence[int]) -> bytes:
    arguments = [
        stored,
        integer(offset),
        many([integer(n) for n in shape]),
        many([integer(n) for n in strides]),
        b"\x89",
        name("collections", "OrderedDict") + b")R",
    ]
    return name("torch._utils", "_rebuild_tensor_v2") + many(arguments) + b"R"


def dictionary(entries: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def pickled(value: bytes, proto: bytes = PROTO) -> bytes:
    return proto + value + b"."


def zip_file(pickle: bytes, storages: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", "little")
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def legacy_file(pickle: bytes, storages: Mapping[str, tuple[int, bytes]], view: bytes = b"N") -> bytes:
    keys = pickled(b"](" + b"".join(text(key) for key in storages) + b"e")
    return LEGACY_HEAD + pickle + keys + b"".join(struct.pack("<q", n) + raw for n, raw in storages.values())
