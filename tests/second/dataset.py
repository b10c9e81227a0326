"""A second reader of data set manifests and proofs, written from `dataset-manifest-v1.md` alone.

It is slow and short, and shares nothing with `lineage`: trees are built from bit strings, proofs
are read into nested tuples first, and JSON is checked on the text's own terms.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
import re
from collections import Counter
from typing import Any

import rfc8785
from blake3 import blake3

U64 = 8
REFUSED = ValueError


def b3(data: bytes) -> bytes:
    return blake3(data).digest()


def le(number: int) -> bytes:
    return number.to_bytes(U64, "little")


def tagged(tag: str, *parts: bytes) -> bytes:
    return tag.encode() + b"\0" + b"".join(le(len(part)) + part for part in parts)


# Records


class Other(str):
    """A canonical text of what JSON cannot say."""

    __slots__ = ()


def text(value: Any) -> str:
    if isinstance(value, Other):
        return str(value)
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None}
        order = sorted(kept, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{text(key)}:{text(kept[key])}" for key in order) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text, value)) + "]"
    return rfc8785.dumps(value).decode()


def parse(line: bytes) -> Any:
    """JSON by rules 1 and 4."""
    if len(line) > 64 * 2**20:
        raise REFUSED("long")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) < len(items):
            raise REFUSED("a name twice")
        return dict(items)

    def whole(digits: str) -> int:
        if digits == "-0" or abs(int(digits)) >= 2**53:
            raise REFUSED(digits)
        return int(digits)

    def broken(digits: str) -> float:
        value = float(digits)
        if str(value) in ("inf", "-inf", "-0.0"):
            raise REFUSED(digits)
        return value

    def never(word: str) -> None:
        raise REFUSED(word)

    value = json.loads(
        line.decode("utf-8", "strict"),
        object_pairs_hook=pairs, parse_int=whole, parse_float=broken, parse_constant=never,
    )  # fmt: skip
    if depth(value) > 128:
        raise REFUSED("deep")
    text(value).encode("utf-8", "strict")  # a lone surrogate fails here
    return value


def depth(value: Any) -> int:
    """The levels below this one."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max((1 + depth(item) for item in inside), default=0)


def record(canonical: str) -> bytes:
    return b3(tagged("lineage/record/v1", canonical.encode()))


def lines(data: bytes) -> list[bytes]:
    """Digests of JSON lines, in order."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    return [record(text(parse(line))) for line in data.split(b"\n") if line.strip(b" \t\r")]


# Roots


def bits(digest: bytes) -> str:
    return f"{int.from_bytes(digest, 'big'):0256b}"


def set_tree(counts: dict[bytes, int]) -> bytes:
    return _set_tree({bits(digest): (digest, count) for digest, count in counts.items()}, 0)


def _set_tree(held: dict[str, tuple[bytes, int]], at: int) -> bytes:
    if not held:
        return bytes(32)
    if len(held) <= 16:
        return b3(b"\0" + b"".join(held[k][0] + le(held[k][1]) for k in sorted(held)))
    sides = [{k: v for k, v in held.items() if k[at] == which} for which in "01"]
    return b3(b"\1" + _set_tree(sides[0], at + 1) + _set_tree(sides[1], at + 1))


def root(counts: dict[bytes, int]) -> bytes:
    numbers = le(sum(counts.values())), le(len(counts))
    return b3(tagged("lineage/records/v1", *numbers, set_tree(counts)))


def log(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, over leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else b3(b"")
    left = 1
    while 2 * left < len(leaves):
        left *= 2
    return b3(b"\1" + log(leaves[:left]) + log(leaves[left:]))


def ordered_root(digests: list[bytes]) -> bytes:
    runs = [b"".join(digests[at : at + 1024]) for at in range(0, len(digests), 1024)]
    tree = log([b3(b"\0" + run) for run in runs])
    return b3(tagged("lineage/ordered-records/v1", le(len(digests)), tree))


def file_entry(name: str, digest: bytes, size: int, records: int) -> bytes:
    entry = tagged("lineage/data-file/v1", name.encode(), digest, le(size), le(records))
    return b3(b"\0" + entry)


def salt(secret: bytes, digest: bytes) -> bytes:
    return blake3(digest, key=secret).digest()


def hidden(salted: bytes, digest: bytes) -> bytes:
    return b3(tagged("lineage/hidden-record/v1", salted, digest))


# The file

MEMBERS = (
    "_type bytes columns distinct files files_bytes files_root hidden licence near ordered_root "
    "records root skipped source splits"
)


def manifest(data: bytes) -> dict[str, Any]:
    """Read a manifest file and check everything that the page asks."""
    line, _, rest = data.partition(b"\n")
    header = json.loads(line)
    require(rfc8785.dumps(header) == line and len(line) < 2**20)
    require(header["_type"] == "urn:model-lineage:dataset-manifest:v1")
    require(sorted(header) == sorted(MEMBERS.split()))
    n, m, f = header["records"], header["distinct"], header["files_bytes"]
    near = 0 if header["near"] is None else 512 * n
    require(len(rest) == f + 32 * n + 40 * m + near)
    held = json.loads(rest[:f])
    require(rfc8785.dumps(held) == rest[:f] and sorted(held) == ["files", "skipped"])
    order = [rest[f + 32 * i : f + 32 * i + 32] for i in range(n)]
    at = f + 32 * n
    entries = [rest[at + 40 * i : at + 40 * i + 40] for i in range(m)]
    digests = [entry[:32] for entry in entries]
    require(all(a < b for a, b in itertools.pairwise(digests)))
    counts = {e[:32]: int.from_bytes(e[32:], "little") for e in entries}
    require(all(counts.values()) and sum(counts.values()) == n)
    require(root(counts).hex() == header["root"])
    require(ordered_root(order).hex() == header["ordered_root"])
    rows = held["files"]
    leaves = [
        file_entry(r["name"], bytes.fromhex(r["blake3"]), r["bytes"], r["records"]) for r in rows
    ]
    require(log(leaves).hex() == header["files_root"])
    sums = len(rows), sum(r["bytes"] for r in rows), sum(r["records"] for r in rows)
    require(sums == (header["files"], header["bytes"], n) and sum(header["splits"].values()) == n)
    return {"header": header, "order": order, "counts": counts, **held}


def write_manifest(files: dict[str, list[bytes]], raw: dict[str, bytes], **more: Any) -> bytes:
    """A manifest file of JSON lines: each file's digests, and its bytes."""
    names = sorted(files, key=str.encode)
    order = [digest for name in names for digest in files[name]]
    counts = dict(sorted(Counter(order).items()))
    rows = [
        {
            "name": name, "kind": "jsonl", "split": None, "blake3": b3(raw[name]).hex(),
            "bytes": len(raw[name]), "records": len(files[name]),
        }
        for name in names
    ]  # fmt: skip
    entries = [
        file_entry(r["name"], bytes.fromhex(r["blake3"]), r["bytes"], r["records"])
        for r in rows
    ]  # fmt: skip
    section = rfc8785.dumps({"files": rows, "skipped": []})
    header = {
        "_type": "urn:model-lineage:dataset-manifest:v1",
        "bytes": sum(map(len, raw.values())), "columns": [], "distinct": len(counts),
        "files": len(rows), "files_bytes": len(section), "files_root": log(entries).hex(),
        "hidden": False, "licence": None, "near": None, "ordered_root": ordered_root(order).hex(),
        "records": len(order), "root": root(counts).hex(), "skipped": 0, "source": None,
        "splits": {"": len(order)}, **more,
    }  # fmt: skip
    body = b"".join(order) + b"".join(digest + le(count) for digest, count in counts.items())
    return rfc8785.dumps(header) + b"\n" + section + body


def require(is_so: bool) -> None:
    if not is_so:
        raise REFUSED("not as the page says")


# Proofs


def steps(data: bytes) -> Any:
    """An opened tree as nested tuples."""
    value, at = _steps(data, 0, 0)
    require(at == len(data))
    return value


def _steps(data: bytes, at: int, level: int) -> tuple[Any, int]:
    require(at < len(data) and level <= 256)
    kind = data[at]
    if kind == 0:
        require(at + 1 < len(data))
        end = at + 2 + 48 * data[at + 1]
        require(end <= len(data))
        rows = [data[i : i + 48] for i in range(at + 2, end, 48)]
        shown = [
            (r[:32], *(int.from_bytes(r[i : i + 8], "little") for i in (32, 40))) for r in rows
        ]
        require(all(a[0] < b[0] for a, b in itertools.pairwise(shown)))
        require(all(row[1] or row[2] for row in shown))
        return ("open", shown), end
    if kind in (1, 2):
        require(at + 33 <= len(data))
        return ("both" if kind == 1 else "new", data[at + 1 : at + 33]), at + 33
    require(kind == 3)
    left, at = _steps(data, at + 1, level + 1)
    right, at = _steps(data, at, level + 1)
    return ("node", left, right), at


def hashed(tree: Any, side: int, path: str = "") -> Any:
    """One side (0 older, 1 newer): its hash, or while there are few, the records themselves."""
    if tree[0] == "new" and side == 0:
        return {}
    if tree[0] == "open":
        require(all(bits(row[0]).startswith(path) for row in tree[1]))
        return {bits(row[0]): (row[0], row[1 + side]) for row in tree[1] if row[1 + side]}
    if tree[0] in ("both", "new"):
        return tree[1]
    parts = [hashed(part, side, path + b) for part, b in zip(tree[1:], "01", strict=True)]
    if all(isinstance(part, dict) for part in parts) and sum(map(len, parts)) <= 16:
        return parts[0] | parts[1]
    return b3(b"\1" + b"".join(closed(part, len(path) + 1) for part in parts))


def closed(part: Any, at: int) -> bytes:
    return _set_tree(part, at) if isinstance(part, dict) else part


def leaves_of(tree: Any) -> list[tuple[bytes, int, int]]:
    if tree[0] == "node":
        return leaves_of(tree[1]) + leaves_of(tree[2])
    return tree[1] if tree[0] == "open" else []


def end_of(tree: Any, path: str) -> Any:
    """What the path of bits ends at."""
    return end_of(tree[1 + int(path[0])], path[1:]) if tree[0] == "node" else tree


def has_new(tree: Any) -> bool:
    return tree[0] == "new" or (tree[0] == "node" and any(map(has_new, tree[1:])))


def head_of(value: Any, tree: Any) -> tuple[int, int]:
    numbers = value["records"], value["distinct"]
    found = b3(tagged("lineage/records/v1", *map(le, numbers), closed(tree, 0)))
    require(found.hex() == value["root"] and sorted(value) == ["distinct", "records", "root"])
    return numbers


def proof(data: bytes) -> str:
    """Check a proof; return its kind."""
    data = data.removesuffix(b"\n")
    value = json.loads(data)
    require(rfc8785.dumps(value) == data)
    require(value["_type"] == "urn:model-lineage:dataset-proof:v1")
    kind = value["kind"]
    if kind == "file":
        file_proof(value)
        return "file"
    tree = steps(base64.b64decode(value["tree"], validate=True))
    leaves = leaves_of(tree)
    if kind in ("inclusion", "absence"):
        require(sorted(value) == ["_type", "digest", "kind", "of", "salt", "tree"])
        require(not has_new(tree) and all(a == b for _, a, b in leaves))
        head_of(value["of"], hashed(tree, 1))
        wanted = bytes.fromhex(value["digest"])
        if value["salt"] is not None:
            require(kind == "inclusion")
            wanted = hidden(bytes.fromhex(value["salt"]), wanted)
        end = end_of(tree, bits(wanted))
        require(end[0] == "open")
        require((wanted in [row[0] for row in end[1]]) == (kind == "inclusion"))
        return str(kind)
    require(sorted(value) == ["_type", "kind", "new", "old", "tree"])
    old, new = head_of(value["old"], hashed(tree, 0)), head_of(value["new"], hashed(tree, 1))
    falls = any(a > b for _, a, b in leaves)
    rises = any(a < b for _, a, b in leaves)
    if kind == "subset":
        require(not falls)
        return "subset"
    require(kind in ("removal", "append", "change") and not has_new(tree))
    require(not (kind == "removal" and rises) and not (kind == "append" and falls))
    require(new[0] - old[0] == sum(b - a for _, a, b in leaves))
    require(new[1] - old[1] == sum(bool(b) - bool(a) for _, a, b in leaves))
    return str(kind)


def file_proof(value: Any) -> None:
    require(sorted(value) == ["_type", "file", "files", "files_root", "index", "kind", "path"])
    row = value["file"]
    node = file_entry(row["name"], bytes.fromhex(row["blake3"]), row["bytes"], row["records"])
    index, last = value["index"], value["files"] - 1
    require(0 <= index <= last)
    for step in map(bytes.fromhex, value["path"]):  # RFC 9162, section 2.1.3.2
        require(last > 0)
        if index & 1 or index == last:
            node = b3(b"\1" + step + node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = b3(b"\1" + node + step)
        index, last = index >> 1, last >> 1
    require(last == 0 and node.hex() == value["files_root"])


# Near-duplicates


def mersenne(seed: int) -> random.Random:
    """MT19937 as its authors seed it with one number; Python's own `seed` does otherwise."""
    state = [seed]
    for place in range(1, 624):
        last = state[-1]
        state.append((1812433253 * (last ^ last >> 30) + place) % 2**32)
    found = random.Random()
    found.setstate((3, (*state, 624), None))
    return found


_DRAWN = mersenne(1)
TIMES = [2 * (_DRAWN.getrandbits(32) % 2**31) + 1 for _ in range(128)]
PLUS = [_DRAWN.getrandbits(32) for _ in range(128)]


def mixed(shingle: bytes) -> int:
    h = int.from_bytes(hashlib.sha1(shingle).digest()[:4], "little")
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def near(canonical: str) -> list[int]:
    """A record's 128 numbers."""
    strings = re.findall(r'("(?:[^"\\]|\\.)*")(:?)', canonical)
    words = [
        w for s, name in strings if not name for w in re.findall(r"\w+", json.loads(s).lower())
    ]
    runs = (
        [" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))]
        if words
        else [canonical]
    )
    hashes = [mixed(run.encode()) for run in runs]
    return [min((a * h + b) % 2**32 for h in hashes) for a, b in zip(TIMES, PLUS, strict=True)]
