"""Mutators that keep a file's frame whole, so that a blind fuzzer gets past lengths and checksums.

Each takes the bytes, a generator of random numbers and `raw`, which changes bytes blindly, and
returns other bytes. Whatever they cannot take apart they give to `raw`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Raw = Callable[[bytes], bytes]
Mutator = Callable[[bytes, random.Random, Raw], bytes]

NUMBERS = (0, 1, 2, 3, 7, 8, 31, 32, 255, 256, 2**16, 2**31 - 1, 2**32, 2**53, 2**53 - 1, 2**63, -1)


def blind(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change bytes anywhere."""
    return raw(data)


def json_text(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change one value of a JSON text, or one key, or double or drop one."""
    try:
        return json.dumps(_value(json.loads(data), rng, raw)).encode()
    except (ValueError, RecursionError):
        return raw(data)


def _value(value: Any, rng: random.Random, raw: Raw) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        held = dict(value)
        what = rng.randrange(10)
        if what == 0:
            del held[key]
        elif what == 1:
            held[raw(key.encode("utf-8", "replace")).decode("utf-8", "replace")] = held.pop(key)
        elif what == 2:
            held[key] = rng.choice(list(value.values()))
        else:
            held[key] = _value(held[key], rng, raw)
        return held
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at:][:1] * rng.randrange(3) + value[at + 1 :]
        return [*value[:at], _value(value[at], rng, raw), *value[at + 1 :]]
    if type(value) is int and rng.random() < 0.8:
        return rng.choice((value + 1, value - 1, value * 2, -value, rng.choice(NUMBERS)))
    if isinstance(value, str) and rng.random() < 0.8:
        return raw(value.encode("utf-8", "replace")).decode("utf-8", "replace")
    return rng.choice((None, True, 0.5, "", [], {}, rng.choice(NUMBERS), "F32", [[]], {"a": 1}))


def safetensors(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change the header as JSON, or as text, and write its length anew."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8 or rng.random() < 0.2:
        return raw(data)
    header = data[8 : 8 + length]
    header = json_text(header, rng, raw) if rng.random() < 0.7 else raw(header)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def fingerprint(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change the manifest, the head or the arrays of a stored fingerprint, and pack it anew."""
    from safetensors.numpy import load, save

    try:
        arrays = {name: array.tobytes() for name, array in load(data).items()}
        length = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + length])["__metadata__"]["lineage"]
        part = rng.choice(("head", "manifest", "manifest", "cores", "energies", "sums"))
        if part == "head":
            head = json_text(head.encode(), rng, raw).decode()
        elif part == "manifest":
            arrays[part] = json_text(arrays[part], rng, raw)
        else:
            arrays[part] = raw(arrays[part])
        import numpy as np

        width = {"cores": "<f4", "energies": "<f4", "sums": "<f8", "manifest": "u1"}
        made = {
            name: np.frombuffer(held[: len(held) // np.dtype(width[name]).itemsize * 8], "u1")
            for name, held in arrays.items()
        }
        views = {}
        for name, array in made.items():
            size = np.dtype(width[name]).itemsize
            views[name] = array[: len(array) // size * size].view(width[name])
        return bytes(save(views, metadata={"lineage": head}))
    except Exception:  # noqa: BLE001  (the bytes are a mutator's own)
        return raw(data)


def npy(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change the header's text and write its length anew."""
    length = int.from_bytes(data[8:10], "little")
    if data[:6] != b"\x93NUMPY" or data[6:7] != b"\1" or rng.random() < 0.2:
        return raw(data)
    header = raw(data[10 : 10 + length])[:0xFFFF]
    return data[:8] + len(header).to_bytes(2, "little") + header + data[10 + length :]


def zipped(inner: Mutator, *, suffix: str = "") -> Mutator:
    """Change one member and build the archive around it anew: sizes and CRC right."""

    def change(data: bytes, rng: random.Random, raw: Raw) -> bytes:
        if rng.random() < 0.25:
            return raw(data)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                held = [(info.filename, archive.read(info)) for info in archive.infolist()]
        except Exception:  # noqa: BLE001  (what zipfile raises of damaged archives has no end)
            return raw(data)
        if not held:
            return raw(data)
        wanted = [n for n, (name, _) in enumerate(held) if name.endswith(suffix)]
        at = rng.choice(wanted or range(len(held)))
        name, content = held[at]
        what = rng.randrange(12)
        if what == 0:
            name = raw(name.encode()).decode("utf-8", "replace")
        elif what == 1:
            held.append(held[at])
        elif what == 2:
            other = rng.randrange(len(held))
            held[other] = (held[other][0], raw(held[other][1]))
        else:
            content = inner(content, rng, raw)
        held[at] = (name, content)
        return _archive(held, packed=rng.random() < 0.3)

    return change


def _archive(held: list[tuple[str, bytes]], *, packed: bool) -> bytes:
    """A zip archive, written without asking whether its names make sense."""
    out, directory = bytearray(), bytearray()
    for name, content in held:
        stored = name.encode("utf-8", "replace")[:0xFFFF]
        body = content
        if packed:
            squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
            body = squeeze.compress(content) + squeeze.flush()
        facts = (20, 1 << 11, 8 if packed else 0, 0, 33, zlib.crc32(content), len(body),
                 len(content), len(stored))  # fmt: skip
        directory += struct.pack("<4sH5H3I5H2I", b"PK\1\2", 20, *facts, 0, 0, 0, 0, 0, len(out))
        directory += stored
        out += struct.pack("<4s5H3I2H", b"PK\3\4", *facts, 0) + stored + body
    count, start = len(held), len(out)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)
    return bytes(out + directory + end)


def protobuf(data: bytes, rng: random.Random, raw: Raw, depth: int = 0) -> bytes:
    """Change one field of a message, or of one inside it, and write the lengths around it anew."""
    fields = _fields(data)
    if not fields or (depth == 0 and rng.random() < 0.2):
        return raw(data)
    at = rng.randrange(len(fields))
    tag, content = fields[at]
    what = rng.randrange(12)
    if what == 0:
        del fields[at]
    elif what == 1:
        fields.insert(rng.randrange(len(fields)), fields[at])
    elif what == 2:
        fields[at] = (tag & 7 | rng.randrange(1, 32) << 3, content)
    elif tag & 7 == 2 and rng.random() < 0.8:
        fields[at] = (tag, protobuf(content, rng, raw, depth + 1))
    else:
        fields[at] = (tag, raw(content) if tag & 7 == 2 else _varint(rng.choice(NUMBERS)))
    return b"".join(_field(tag, content) for tag, content in fields)


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each field; none if the bytes are no message."""
    found, at = [], 0
    while at < len(data):
        tag, at = _number(data, at)
        wire = tag & 7
        if wire == 0:
            begin = at
            _, at = _number(data, at)
        elif wire == 2:
            length, begin = _number(data, at)
            at = begin + length
        else:
            begin, at = at, at + {1: 8, 5: 4}.get(wire, len(data) + 1)
        if at > len(data) or not tag >> 3:
            return []
        found.append((tag, data[begin:at]))
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at
    return 0, len(data) + 1


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(tag: int, content: bytes) -> bytes:
    return _varint(tag) + (_varint(len(content)) if tag & 7 == 2 else b"") + content


def words(mutator: Mutator, tokens: tuple[bytes, ...]) -> Mutator:
    """Put one of the format's own words somewhere now and then, take a piece out, or double it."""

    def change(data: bytes, rng: random.Random, raw: Raw) -> bytes:
        what = rng.randrange(8)
        if what > 2 or not data:
            return mutator(data, rng, raw)
        at = rng.randrange(len(data))
        end = min(len(data), at + rng.randrange(1, 40))
        if what == 0:
            return data[:at] + rng.choice(tokens) + data[at:]
        if what == 1:
            token = rng.choice(tokens)
            return data[:at] + token + data[at + len(token) :]
        return data[:at] + data[at:end] * rng.choice((0, 2, 3)) + data[end:]

    return change


def numbers(mutator: Mutator) -> Mutator:
    """Overwrite a fixed-width number now and then with one that tempts."""

    def change(data: bytes, rng: random.Random, raw: Raw) -> bytes:
        if rng.randrange(3) or len(data) < 8:
            return mutator(data, rng, raw)
        width = rng.choice((1, 2, 4, 8))
        at = rng.randrange(len(data) - width + 1)
        value = rng.choice((*NUMBERS, len(data), at, rng.randrange(len(data))))
        return data[:at] + (value % 256**width).to_bytes(width, "little") + data[at + width :]

    return change


def lines(mutator: Mutator) -> Mutator:
    """Change one line by itself, or lines at their ends."""

    def change(data: bytes, rng: random.Random, raw: Raw) -> bytes:
        held = data.split(b"\n")
        if rng.random() < 0.15:
            return raw(data)
        at = rng.randrange(len(held))
        held[at] = mutator(held[at], rng, raw)
        return b"\n".join(held)

    return change


def gzipped(mutator: Mutator) -> Mutator:
    """Change what was compressed and compress it anew."""

    def change(data: bytes, rng: random.Random, raw: Raw) -> bytes:
        try:
            inner = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return raw(data)
        if rng.random() < 0.2:
            return raw(data)
        return gzip.compress(mutator(inner, rng, raw), 1)

    return change


def parquet(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change the footer or the pages, and write the footer's length anew."""
    length = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != b"PAR1" or length > len(data) - 12 or rng.random() < 0.2:
        return raw(data)
    pages, footer = data[: -8 - length], data[-8 - length : -8]
    if rng.random() < 0.5:
        footer = raw(footer)
    else:
        pages = raw(pages)
    return pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def tar(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change a header and put its checksum right, or change what it heads."""
    heads = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not heads or rng.random() < 0.3:
        return raw(data)
    at = rng.choice(heads)
    head = raw(data[at : at + 512])[:512].ljust(512, b"\0")
    total = sum(head) - sum(head[148:156]) + 8 * 32
    head = head[:148] + b"%06o\0 " % total + head[156:]
    return data[:at] + head + data[at + 512 :]


def canonical(mutator: Mutator) -> Mutator:
    """Write what another mutator made of a JSON text in the form that readers ask for."""

    def change(data: bytes, rng: random.Random, raw: Raw) -> bytes:
        made = mutator(data, rng, raw)
        try:
            value = json.loads(made)
        except (ValueError, RecursionError):
            return made
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "replace")

    return change


def manifest(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change the header, the list of files, or the digests of a saved manifest, and its length."""
    head, mark, rest = data.partition(b"\n")
    try:
        value = json.loads(head)
        length = int(value["files_bytes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return raw(data)
    files, digests = rest[:length], rest[length:]
    what = rng.randrange(4)
    if what == 0:
        return raw(data)
    if what == 1:
        return head + mark + files + raw(digests)
    if what == 2:
        files = canonical(json_text)(files, rng, raw)
        value["files_bytes"] = len(files)
        head = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        return head + mark + files + digests
    return canonical(json_text)(head, rng, raw) + mark + rest


def proof(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Change a member of a proof, or its opened tree."""
    try:
        value = json.loads(data)
        opened = base64.b64decode(value["tree"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return canonical(json_text)(data, rng, raw)
    if rng.random() < 0.5:
        return canonical(json_text)(data, rng, raw)
    value["tree"] = base64.b64encode(raw(opened)).decode()
    return canonical(blind)(json.dumps(value).encode(), rng, lambda part: part)
