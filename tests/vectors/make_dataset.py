"""Make the data sets' test vectors: `python tests/vectors/make_dataset.py [folder]`.

Expected values come from the second implementation (`tests/second/dataset.py`), never from `lineage`.
Proofs are made here by plain recursion over small sets, in the way the page describes.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rfc8785

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from second import dataset as second  # noqa: E402

RECORDS: dict[str, tuple[str, bytes]] = {
    "example": ("The page's own example: a null left out, one number spelled twice, a repeated record.", b'{"b": null, "a": 5.0}\n"x"\n{"a": 5}\n'),
    "empty": ("No records at all: the roots of nothing.", b"\n  \n\r\n"),
    "one": ("A tree of one record is its hash.", b'{"id": 1}\n'),
    "numbers": ("Numbers that ECMAScript spells otherwise than the line does.", b"[1.0, 1e3, 1E-7, 0.1e1, 123456789012345680000.5, 1e21, 5e-324, 1.7976931348623157e308, 0.000001, 1e-6, 0.0, 0e5, 9007199254740991, -9007199254740991, 1.50, 100.0, 333333333.33333329]\n"),
    "large_number": ("A number of 2^53 with an exponent is a double and allowed; the same as an integer is not.", b"[9007199254740992.0, 1e16]\n"),
    "strings": ("Escapes that are and are not needed.", b'["\\u0041\\/\\u00e9\\n\\u000a\\u001F\\u007f\\"\\\\\\b\\f\\r\\t", "\\ud83d\\ude00", "\xc3\xa9\xf0\x9f\x98\x80", "\\u0000"]\n'),
    "names": ("Names in UTF-16 order, which is not UTF-8's; escaped names; an empty one.", '{"\U0001f600": 1, "\uff5e": 2, "a": 3, "": 4, "\\u0062": 5, "B": 6, "aa": 7}\n'.encode()),
    "nulls": ("Nulls: left out of objects at every depth, kept in lists, a record that is null.", b'{"a": null}\n{"a": {"b": null}}\n[null, {"c": null}]\nnull\n'),
    "spaces": ("Space where JSON allows it, line ends of two kinds, no line end at the end.", b' {\t"a" : [ ] , "b":{ } }\r\n{"b":{},"a":[]}'),
    "mark": ("A UTF-8 mark at the start is no part of the text.", b'\xef\xbb\xbf{"a": 1}\n'),
    "deep": ("128 levels below the record.", b"[" * 128 + b"]" * 128 + b"\n"),
    "runs": ("2,500 records, all alike: three runs in order, the last one short.", b"1\n" * 2500),
    "many": ("300 records, some of them often: a tree that ends at many depths.", b"".join(b'{"n": %d}\n' % (n % 250 if n % 7 else 3) for n in range(300))),
}  # fmt: skip

BAD: dict[str, tuple[str, bytes]] = {
    "name_twice": ("Two parsers would keep different ones.", b'{"a": 1, "a": 1}'),
    "name_twice_null": ("A null is left out, but its name counts.", b'{"a": null, "a": 1}'),
    "name_twice_escaped": ("One name in two spellings.", b'{"a": 1, "\\u0061": 2}'),
    "integer": ("2^53 as an integer.", b"9007199254740992"),
    "integer_negative": ("-2^53 as an integer.", b"-9007199254740992"),
    "minus_zero": ("-0 is 0 to some.", b"[-0]"),
    "minus_zero_fraction": ("-0.0 is 0 to some.", b"[-0.0]"),
    "minus_zero_small": ("So small that it is -0.", b"[-1e-400]"),
    "infinite": ("Beyond the largest double.", b"[1e309]"),
    "nan": ("No JSON, though many parsers take it.", b"[NaN]"),
    "surrogate": ("Half of a pair.", b'["\\ud800"]'),
    "surrogate_name": ("Half of a pair in a name.", b'{"\\udc00": 1}'),
    "surrogate_bytes": ("A surrogate as UTF-8.", b'["\xed\xa0\x80"]'),
    "utf8": ("Not UTF-8.", b'["\xff"]'),
    "latin": ("Latin-1 in a UTF-8 file.", b'["caf\xe9"]'),
    "overlong": ("An overlong slash.", b'["\xc0\xaf"]'),
    "too_deep": ("129 levels below the record.", b"[" * 129 + b"1" + b"]" * 129),
    "zero": ("A number with a zero in front.", b"[01]"),
    "comma": ("A comma too many.", b"[1,]"),
    "two": ("Two values on a line.", b"{} {}"),
    "cut": ("A line that was cut.", b'{"a": "b'),
    "control": ("A control character in a string.", b'["\x01"]'),
    "plus": ("A number with a plus.", b"[+1]"),
    "space": ("A space that is none in JSON.", b"\xc2\xa0[1]"),
}  # fmt: skip


def opened(
    old: dict[bytes, int],
    new: dict[bytes, int],
    wanted: set[bytes],
    at: int = 0,
    shut: bool = False,
    bare: bool = False,
) -> bytes:
    """An opened tree: where the sides differ, and along the paths of what is wanted.

    `bare`: one side has 16 or fewer further up, so that all of it must be shown here.
    """
    tails = {second.bits(digest): (digest, new[digest]) for digest in new}
    if shut and new and not old and not wanted:
        return b"\2" + second._set_tree(tails, at)
    few = len(old) <= 16, len(new) <= 16
    if all(few) and (old != new or wanted or bare or not old):
        return shown(old, new)
    if old == new and not wanted:
        return b"\1" + second._set_tree(tails, at)
    parts = []
    for which in "01":
        side = [{d: c for d, c in s.items() if second.bits(d)[at] == which} for s in (old, new)]
        rest = {d for d in wanted if second.bits(d)[at] == which}
        parts.append(opened(side[0], side[1], rest, at + 1, shut, bare or any(few)))
    return b"\3" + b"".join(parts)


def shown(old: dict[bytes, int], new: dict[bytes, int]) -> bytes:
    """The step that shows all records of both sides."""
    both = sorted(set(old) | set(new))
    rows = (d + second.le(old.get(d, 0)) + second.le(new.get(d, 0)) for d in both)
    return b"\0" + bytes([len(both)]) + b"".join(rows)


def head(counts: dict[bytes, int]) -> dict[str, Any]:
    return {
        "root": second.root(counts).hex(),
        "records": sum(counts.values()),
        "distinct": len(counts),
    }


def of_one(
    kind: str, counts: dict[bytes, int], digest: bytes, salt: bytes | None = None
) -> dict[str, Any]:
    inside = digest if salt is None else second.hidden(salt, digest)
    tree = opened(counts, counts, {inside})
    return {
        "_type": "urn:model-lineage:dataset-proof:v1", "kind": kind, "of": head(counts), "digest": digest.hex(),
        "salt": salt and salt.hex(), "tree": base64.b64encode(tree).decode(),
    }  # fmt: skip


def of_two(
    kind: str, old: dict[bytes, int], new: dict[bytes, int], *, shut: bool = False
) -> dict[str, Any]:
    tree = opened(old, new, set(), shut=shut)
    return {
        "_type": "urn:model-lineage:dataset-proof:v1", "kind": kind, "old": head(old), "new": head(new),
        "tree": base64.b64encode(tree).decode(),
    }  # fmt: skip


DIGESTS = [second.record(f'{{"n":{n}}}') for n in range(40)]
SET = {digest: 1 + n % 3 for n, digest in enumerate(DIGESTS[:30])}
FEWER = {d: c for n, (d, c) in enumerate(SET.items()) if n not in (4, 9)} | {DIGESTS[2]: 1}
MORE = SET | dict.fromkeys(DIGESTS[30:34], 1) | {DIGESTS[0]: 5}
SOME = dict.fromkeys(DIGESTS[3:6], 1)
FEW = dict.fromkeys(DIGESTS[:16], 1)
SECRET = bytes(range(32))
SALTS = {digest: second.salt(SECRET, digest) for digest in DIGESTS}
HIDDEN = {second.hidden(SALTS[digest], digest): count for digest, count in SET.items()}
FILES = [(f"part-{n}.jsonl", second.b3(b"%d" % n), 10 + n, n) for n in range(7)]


def of_file(index: int) -> dict[str, Any]:
    leaves = [second.file_entry(*row) for row in FILES]

    def path(low: int, high: int) -> list[str]:
        if high - low == 1:
            return []
        left = 1
        while 2 * left < high - low:
            left *= 2
        middle = low + left
        inside = (low, middle) if index < middle else (middle, high)
        beside = (middle, high) if index < middle else (low, middle)
        return [*path(*inside), second.log(leaves[beside[0] : beside[1]]).hex()]

    name, digest, size, records = FILES[index]
    return {
        "_type": "urn:model-lineage:dataset-proof:v1", "kind": "file", "files_root": second.log(leaves).hex(),
        "files": len(FILES), "index": index, "path": path(0, len(FILES)),
        "file": {"name": name, "blake3": digest.hex(), "bytes": size, "records": records},
    }  # fmt: skip


PROOFS: dict[str, tuple[str, dict[str, Any]]] = {
    "inclusion": ("A record that is there three times.", of_one("inclusion", SET, DIGESTS[5])),
    "inclusion_alone": ("A record alone in its set.", of_one("inclusion", {DIGESTS[5]: 2}, DIGESTS[5])),
    "inclusion_hidden": ("A record of a private manifest, opened by its salt.", of_one("inclusion", HIDDEN, DIGESTS[5], SALTS[DIGESTS[5]])),
    "absence": ("A record whose place is empty or another's.", of_one("absence", SET, DIGESTS[35])),
    "absence_of_any": ("Nothing is in an empty set.", of_one("absence", {}, DIGESTS[0])),
    "removal": ("Two records gone and one fewer; what is left is hashed higher up.", of_two("removal", SET, FEWER)),
    "removal_of_all": ("All gone.", of_two("removal", SOME, {})),
    "append": ("Four new and one more often.", of_two("append", SET, MORE)),
    "append_nothing": ("Nothing changed: one shared hash.", of_two("append", SET, SET)),
    "change": ("Some came and some went.", of_two("change", FEWER, SOME | {DIGESTS[39]: 1})),
    "subset": ("Three of many: what is in the newer alone stays shut.", of_two("subset", SOME, MORE, shut=True)),
    "few": ("Two records, which are hashed at once: one step.", of_one("inclusion", {DIGESTS[5]: 2, DIGESTS[6]: 1}, DIGESTS[5])),
    "few_become_many": ("16 records and one more: one hash becomes a tree.", of_two("append", FEW, FEW | {DIGESTS[16]: 1})),
    "many_become_few": ("17 records but one: the tree becomes one hash, all of it in the open.", of_two("removal", FEW | {DIGESTS[16]: 1}, FEW)),
    "few_of_many": ("16 of 40: the older is one hash, what is shut has nothing of it.", of_two("subset", FEW, dict.fromkeys(DIGESTS, 1), shut=True)),
    "file_first": ("The first of seven files.", of_file(0)),
    "file_last": ("The last of seven files, whose path is short.", of_file(6)),
}  # fmt: skip


def changed(name: str, **members: Any) -> dict[str, Any]:
    return PROOFS[name][1] | members


def retreed(name: str, change: Callable[[bytes], bytes]) -> dict[str, Any]:
    tree = change(base64.b64decode(PROOFS[name][1]["tree"]))
    return changed(name, tree=base64.b64encode(tree).decode())


def recounted(name: str, which: str, **counts: int) -> dict[str, Any]:
    """A head with other counts, and its root made of them."""
    found = PROOFS[name][1]
    tree = second.steps(base64.b64decode(found["tree"]))
    value = found[which] | counts
    numbers = map(second.le, (value["records"], value["distinct"]))
    framed = second.tagged(
        "lineage/records/v1", *numbers, second.closed(second.hashed(tree, which != "old"), 0)
    )
    return found | {which: value | {"root": second.b3(framed).hex()}}


def too_fine(tree: bytes) -> bytes:
    """A step's records in two steps, under a node."""
    rows = [tree[at : at + 48] for at in range(2, len(tree), 48)]
    halves = [[row for row in rows if second.bits(row[:32])[0] == which] for which in "01"]
    return b"\3" + b"".join(
        b"\1"
        + second._set_tree(
            {row.hex(): (row[:32], int.from_bytes(row[40:], "little")) for row in half}, 1
        )
        for half in halves
    )


def off_path() -> str:
    shown = b"\0\1" + DIGESTS[5] + second.le(1) * 2
    sides = [b"\0\0", shown] if second.bits(DIGESTS[5])[0] == "0" else [shown, b"\0\0"]
    return base64.b64encode(b"\3" + b"".join(sides)).decode()


OFF_PATH = off_path()

BAD_PROOFS: dict[str, tuple[str, dict[str, Any]]] = {
    "type": ("Another type.", changed("inclusion", _type="urn:model-lineage:dataset-proof:v2")),
    "kind": ("A kind that is none.", changed("inclusion", kind="exclusion")),
    "member": ("A member that is not known.", changed("inclusion", note="hello")),
    "root": ("Another root.", changed("inclusion", of=head(MORE))),
    "count": ("The counts are in the root.", changed("inclusion", of=PROOFS["inclusion"][1]["of"] | {"records": 61})),
    "digest": ("Another record, not among the open.", changed("inclusion", digest=DIGESTS[35].hex())),
    "absent_but_there": ("An absence of what is there.", changed("inclusion", kind="absence")),
    "absence_shut": ("The place of another record stays shut.", changed("absence", digest=DIGESTS[7].hex())),
    "absence_hidden": ("With another salt the place is another.", of_one("absence", HIDDEN, DIGESTS[5], SALTS[DIGESTS[6]])),
    "salt": ("A salt of another record.", changed("inclusion_hidden", salt=SALTS[DIGESTS[6]].hex())),
    "tree_short": ("A step is missing.", retreed("inclusion", lambda t: t[:-1])),
    "tree_long": ("A step is left over.", retreed("inclusion", lambda t: t + b"\0")),
    "tree_step": ("A step that is none.", retreed("inclusion", lambda t: b"\5" + t[1:])),
    "tree_off_path": ("A record that is not under its own bits.", changed("inclusion", tree=OFF_PATH)),
    "tree_order": ("Records of a step out of order.", retreed("few", lambda t: t[:2] + t[50:98] + t[2:50] + t[98:])),
    "tree_neither": ("A record that neither side has.", retreed("few", lambda t: t[:1] + bytes([t[1] + 1]) + t[2:] + b"\xff" * 32 + bytes(16))),
    "tree_too_fine": ("Few records under a node, which are hashed at once.", retreed("few", too_fine)),
    "tree_base64": ("Base64 with a line end.", changed("inclusion", tree=PROOFS["inclusion"][1]["tree"] + "\n")),
    "two_sides": ("A proof of one data set with two.", of_one("inclusion", SET, DIGESTS[5]) | {"tree": base64.b64encode(opened(FEWER, SET, {DIGESTS[5]})).decode()}),
    "removal_adds": ("A removal that adds.", of_two("removal", SET, MORE)),
    "append_removes": ("An append that removes.", of_two("append", SET, FEWER)),
    "removal_shut": ("A removal with something new that stays shut.", of_two("removal", SOME, MORE, shut=True)),
    "subset_fewer": ("A subset with a record more often than the whole.", of_two("subset", SET, FEWER)),
    "records": ("Counts that the changes do not add up to.", recounted("append", "new", records=99)),
    "distinct": ("Distinct counts that the changes do not add up to.", recounted("append", "new", distinct=35)),
    "file_name": ("A file of another name.", changed("file_first", file=PROOFS["file_first"][1]["file"] | {"name": "part-1.jsonl"})),
    "file_index": ("Another place.", changed("file_first", index=1)),
    "file_path": ("A step too many.", changed("file_first", path=[*PROOFS["file_first"][1]["path"], "00" * 32])),
}  # fmt: skip

ORDER = [DIGESTS[n % 11] for n in range(25)]
PARTS = {"b/two.jsonl": ORDER[10:], "a.jsonl": ORDER[:10], "empty.jsonl": []}
RAW = {name: b"bytes of " + name.encode() for name in PARTS}
MANIFEST = second.write_manifest(PARTS, RAW)


def reheaded(**members: Any) -> bytes:
    """The manifest with other members in its header."""
    line, _, rest = MANIFEST.partition(b"\n")
    return rfc8785.dumps(json.loads(line) | members) + b"\n" + rest


def swapped() -> bytes:
    """The first two distinct digests change places."""
    at = len(MANIFEST) - 40 * len(set(ORDER))
    return (
        MANIFEST[:at] + MANIFEST[at + 40 : at + 80] + MANIFEST[at : at + 40] + MANIFEST[at + 80 :]
    )


def uncounted() -> bytes:
    """One count is 0 and the next one larger by what it was."""
    at = len(MANIFEST) - 80
    counts = [int.from_bytes(MANIFEST[i : i + 8], "little") for i in (at + 32, at + 72)]
    first = MANIFEST[at : at + 32] + second.le(0)
    return MANIFEST[:at] + first + MANIFEST[at + 40 : at + 72] + second.le(sum(counts))


SKETCHED = """\
{"text": "The quick brown fox jumps over the lazy dog"}
{"text": "the quick brown fox JUMPS over the lazy cat", "id": 7}
{"title": "Two words", "body": ["and", "\\u00c9t\\u00e9 d\u2019hiver, snow_fall"]}
{"n": 1, "none": null}
"one"
""".encode()

BAD_MANIFESTS: dict[str, tuple[str, bytes]] = {
    "type": ("Another type.", reheaded(_type="urn:model-lineage:dataset-manifest:v2")),
    "member": ("A member that is not known.", reheaded(note="hello")),
    "root": ("Another root.", reheaded(root="00" * 32)),
    "ordered_root": ("Another ordered root.", reheaded(ordered_root="00" * 32)),
    "files_root": ("Another root of files.", reheaded(files_root="00" * 32)),
    "bytes": ("Files that do not add up.", reheaded(bytes=1)),
    "splits": ("Splits that do not add up.", reheaded(splits={"": 24})),
    "not_canonical": ("A header with a space.", MANIFEST.replace(b'"bytes":', b'"bytes": ', 1)),
    "short": ("A byte is missing.", MANIFEST[:-1]),
    "long": ("A byte too many.", MANIFEST + b"\0"),
    "swapped": ("Distinct digests out of order.", swapped()),
    "count_zero": ("A count of 0.", uncounted()),
    "order": ("Two records in another order.", MANIFEST.replace(ORDER[0] + ORDER[1], ORDER[1] + ORDER[0], 1)),
    "large_file": ("A file with more records than there are.", reheaded(records=2**47)),
    "near": ("Sketches by an unknown scheme.", reheaded(near="minhash-v9")),
}  # fmt: skip


def write(folder: Path) -> None:
    """Write all cases."""
    for name, (hunts, data) in RECORDS.items():
        digests = second.lines(data)
        counts = {digest: digests.count(digest) for digest in digests}
        texts = [
            second.text(second.parse(x))
            for x in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
            if x.strip(b" \t\r")
        ]
        expected = {
            "texts": texts if len(texts) < 20 else [], "digests": [d.hex() for d in digests],
            "ordered_root": second.ordered_root(digests).hex(), **head(counts),
        }  # fmt: skip
        case(folder / name, hunts, "records.jsonl", data)
        (folder / name / "expected.json").write_text(
            json.dumps(expected, indent=1) + "\n", encoding="utf-8"
        )
    for name, (hunts, data) in BAD.items():
        case(folder / f"{name}_fail", hunts, "records.jsonl", data)
    for name, (hunts, value) in PROOFS.items():
        case(folder / f"proof_{name}", hunts, "proof.json", rfc8785.dumps(value) + b"\n")
    for name, (hunts, value) in BAD_PROOFS.items():
        case(folder / f"proof_{name}_fail", hunts, "proof.json", rfc8785.dumps(value) + b"\n")
    case(
        folder / "manifest",
        "A manifest of three files with repeated records, one file empty.",
        "data.manifest",
        MANIFEST,
    )
    case(
        folder / "sketches",
        "Sketches of records with many words, few and none, other cases and letters.",
        "records.jsonl",
        SKETCHED,
    )
    found = [second.near(second.text(second.parse(line))) for line in SKETCHED.splitlines()]
    (folder / "sketches" / "expected.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    for name, (hunts, data) in BAD_MANIFESTS.items():
        case(folder / f"manifest_{name}_fail", hunts, "data.manifest", data)


def case(folder: Path, hunts: str, name: str, data: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    (folder / "README.md").write_text(hunts + "\n", encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "dataset" / "v1"
    shutil.rmtree(target, ignore_errors=True)
    write(target)
