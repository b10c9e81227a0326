"""Two implementations of a data set's manifest agree: on the vectors, and on drawn records."""

from __future__ import annotations

import filecmp
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from second import dataset as second
from strategies import json_values
from vectors import make_dataset

from lineage import manifests
from lineage.datasets import Options, build, hashing, json_texts, load
from lineage.datasets.near import sketches
from lineage.datasets.readers import json_lines
from lineage.datasets.sorting import tree_over
from lineage.errors import FormatError, VerificationError
from lineage.manifests import canonical, opened, parse_json, proofs, record_digest, tree
from lineage.manifests.records import hidden_digest, salt_of

VECTORS = Path(__file__).parent / "vectors" / "dataset" / "v1"


@pytest.fixture(params=["orjson", "plain"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With orjson, which must be there to be tested, and without."""
    if request.param == "plain":
        monkeypatch.setattr(json_texts, "fast", None)
    else:
        assert json_texts.fast is not None


def test_the_script_makes_these_very_files(tmp_path: Path) -> None:
    make_dataset.write(tmp_path)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    kept = sorted(p.relative_to(VECTORS).as_posix() for p in VECTORS.rglob("*") if p.is_file())
    assert names == kept
    assert filecmp.cmpfiles(tmp_path, VECTORS, names, shallow=False)[1:] == ([], [])


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("name", sorted(make_dataset.RECORDS))
def test_records_are_what_the_vectors_say(name: str) -> None:
    expected = json.loads((VECTORS / name / "expected.json").read_text())
    data = make_dataset.RECORDS[name][1].removeprefix(b"\xef\xbb\xbf")
    found = json_lines.digest(data, None)
    assert found.bad == ()
    assert [d.hex() for (d,) in struct.iter_unpack("32s", found.digests)] == expected["digests"]
    if expected["texts"]:
        lines = [line for line in data.split(b"\n") if line.strip()]
        assert [canonical(parse_json(line)).decode() for line in lines] == expected["texts"]
    header = build([VECTORS / name / "records.jsonl"]).header
    assert header.head.root.hex() == expected["root"]
    assert header.ordered_root.hex() == expected["ordered_root"]
    assert (header.head.records, header.head.distinct) == (
        expected["records"],
        expected["distinct"],
    )


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("name", sorted(make_dataset.BAD))
def test_bad_records_are_refused_with_their_line(name: str) -> None:
    path = VECTORS / f"{name}_fail" / "records.jsonl"
    with pytest.raises(ValueError):
        second.lines(path.read_bytes())
    with pytest.raises(FormatError, match=r"records\.jsonl: line 1: "):
        build([path])


@pytest.mark.parametrize("name", sorted(make_dataset.PROOFS))
def test_proofs_hold(name: str) -> None:
    data = (VECTORS / f"proof_{name}" / "proof.json").read_bytes()
    assert manifests.check(data).kind == second.proof(data) == json.loads(data)["kind"]


@pytest.mark.parametrize("name", sorted(make_dataset.BAD_PROOFS))
def test_bad_proofs_are_refused(name: str) -> None:
    data = (VECTORS / f"proof_{name}_fail" / "proof.json").read_bytes()
    with pytest.raises((ValueError, KeyError, RecursionError)):
        second.proof(data)
    with pytest.raises((FormatError, VerificationError)):
        manifests.check(data)


@pytest.mark.usefixtures("loops")
def test_a_manifest_is_read() -> None:
    path = VECTORS / "manifest" / "data.manifest"
    found, expected = load(path), second.manifest(path.read_bytes())
    assert [row.tobytes() for row in found.order] == expected["order"]
    assert {e.tobytes()[:32]: e.tobytes()[32:] for e in found.entries} == {
        digest: second.le(count) for digest, count in expected["counts"].items()
    }
    assert list(found.rows) == expected["files"]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("name", sorted(make_dataset.BAD_MANIFESTS))
def test_bad_manifests_are_refused(name: str) -> None:
    path = VECTORS / f"manifest_{name}_fail" / "data.manifest"
    with pytest.raises((ValueError, KeyError)):
        second.manifest(path.read_bytes())
    with pytest.raises(FormatError, match=r"data\.manifest"):
        load(path)


@given(json_values)
def test_any_value_has_one_text(value: Any) -> None:
    text = canonical(value)
    assert text.decode() == second.text(value)
    try:
        assert canonical(parse_json(text)) == text
    except FormatError as error:  # a double of 2^53 and more is written as an integer is
        assert "beyond 2^53" in error.reason
    assert record_digest(text) == second.record(text.decode())


@given(st.lists(json_values, max_size=8), st.booleans(), st.sampled_from([None, (" , ", " : ")]))
def test_orjson_spells_what_the_definition_does(
    values: list[Any], ascii_: bool, marks: Any
) -> None:
    lines = [json.dumps(v, ensure_ascii=ascii_, separators=marks).encode() for v in values]
    found = json_lines.digest(b"\n".join(lines), None)
    assert (found.lines, found.bad) == (len(lines), ())
    assert found.digests == b"".join(record_digest(canonical(value)) for value in values)


def check_line(line: bytes) -> None:
    """What is made of a line is what the definition says, alone and among others."""
    for others in ([], [b'{"b":[1.5,null],"a":"\xf0\x9f\x98\x80"}', b"", b'{"a":1,"a":2}'] * 3):
        lines = [line, *others]
        expected = b""
        bad = []
        for number, one in enumerate(lines):
            try:
                if one.strip(b" \t\r"):
                    expected += record_digest(canonical(parse_json(one)))
            except FormatError as error:
                bad.append((number, error.reason))
        found = json_lines.digest(b"\n".join(lines), None)
        assert (found.digests, found.bad) == (expected, tuple(bad))


@given(st.binary(max_size=60))
def test_orjson_refuses_what_the_definition_does(line: bytes) -> None:
    check_line(line.replace(b"\n", b""))


@given(st.text(alphabet='{}[]",:\\u0123e-.tnab \t', max_size=24))
def test_what_is_nearly_json_is_read_as_the_definition_does(line: str) -> None:
    check_line(line.encode())


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":1,"a":2}', b'{"a" :1,"a":2}', b'{"a":1,"\\u0061":2}',
        b'{"a":"\\u003a","b":1,"b":2}',
        b'{"a":-0}', b'{"a":-0.5}', b'{"a":1e5}', b'{"a":12345678901234567}', b'{"a":null}',
        b'{"\xf0\x9f\x98\x80":1,"\xef\xbf\xbd":2}', b"[" * 200 + b"]" * 200,
        b'{"b":1,"a":[2,"x:"]}', b"[5.0,0.5]", b"[0.00001,0.0001]", b"[1234567890123456.5]",
        b"[0.12345678901234567890]", b"[-0.5]", b"[123456789012345.25]", b"[1.0e-7]",
        b'{"a":null,"b":[null,{"c":null}],"d":"e:null,"}', b'{"a":":null}"}',
        b"[4.99999999999999999]",
        b'{"a":"3e4","b":"\\u003a\\u003A","c":1,"c":1}',
        b'{"\xf0\x9f\x98\x80\\"\":":1,"\xef\xbf\xbd":2}',
        b'{"id":"1234567890123456789","n":1}', b"[1e400]", b"[-1e-400]", b"[1e22]", b"[2.5e-9,3]",
        b'"\\ud800"', b'{"\\u003a":1,"\\u003a":2}', b"-0", b"-0 ", b"[-0 ,1]", b"0.0", b"1.0",
        b"1e5",
        b'{"a":' * 129 + b"1" + b"}" * 129, b'{"a":' * 128 + b"1" + b"}" * 128, b"\xef\xbb\xbf1",
    ],
)  # fmt: skip
def test_what_orjson_would_take_otherwise_is_left_to_the_definition(line: bytes) -> None:
    check_line(line)


@given(st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(1, 2**40), max_size=120))
def test_trees_agree(counts: dict[bytes, int]) -> None:
    entries = sorted(counts.items())
    packed = b"".join(digest + second.le(count) for digest, count in entries)
    expected = second.set_tree(counts)
    assert tree.set_tree(entries) == hashing.set_tree(packed) == expected


@given(st.integers(0, 5000))
def test_orders_agree(count: int) -> None:
    digests = [record_digest(b"%d" % n) for n in range(count)]
    runs = [b"".join(digests[at : at + tree.RUN]) for at in range(0, count, tree.RUN)]
    found = tree.ordered_root([tree.run_hash(run) for run in runs], count)
    assert found == second.ordered_root(digests)


@given(st.integers(0, 4), st.integers(0, 400))
def test_a_tree_is_that_of_its_parts(depth: int, count: int) -> None:
    digests = sorted(record_digest(b"%d" % n) for n in range(count))
    parts = [
        b"".join(d + second.le(1) for d in digests if d[0] >> (8 - depth) == n)
        for n in range(1 << depth)
    ]
    found = tree_over([hashing.subtree(part, depth) for part in parts], depth)
    assert found == second.set_tree(dict.fromkeys(digests, 1))


def test_digests_alike_in_most_bits_make_deep_trees() -> None:
    digests = [bytes(31) + bytes([n]) for n in range(40)] + [b"\xff" * 32]
    counts = dict.fromkeys(digests, 2)
    packed = b"".join(digest + second.le(2) for digest in digests)
    assert (
        hashing.set_tree(packed) == tree.set_tree(sorted(counts.items())) == second.set_tree(counts)
    )


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_hiding_agrees(secret: bytes, digest: bytes) -> None:
    salt = salt_of(secret, digest)
    assert salt == second.salt(secret, digest)
    assert hidden_digest(salt, digest) == second.hidden(salt, digest)


@given(json_values)
def test_sketches_agree(value: Any) -> None:
    text = canonical(value)
    found = struct.unpack("<128I", sketches([text]))
    assert list(found) == second.near(text.decode())


def test_sketches_are_what_the_vectors_say(tmp_path: Path) -> None:
    folder = VECTORS / "sketches"
    build([folder / "records.jsonl"], tmp_path / "out", Options(near=True))
    expected = json.loads((folder / "expected.json").read_text())
    assert load(tmp_path / "out").near.tolist() == expected


@given(st.data())
def test_a_proof_with_a_changed_byte_proves_nothing_else(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(make_dataset.PROOFS)))
    whole = (VECTORS / f"proof_{name}" / "proof.json").read_bytes()
    at = data.draw(st.integers(0, len(whole) - 2))
    other = bytearray(whole)
    other[at] ^= data.draw(st.integers(1, 255))
    try:
        found = proofs.check(bytes(other))
    except (FormatError, VerificationError):
        return
    # What is left may still be true of other words: a kind that asks less.
    expected = proofs.check(whole)
    assert (found.old, found.new, found.changes) == (expected.old, expected.new, expected.changes)


@pytest.mark.parametrize(
    "change",
    [
        {"file": {"name": "a"}}, {"file": {"name": 1, "blake3": "", "bytes": 0, "records": 0}},
        {"index": 7}, {"index": -1}, {"files": True}, {"path": "none"}, {"path": [1]},
        {"files_root": "AB" * 32},
    ],
)  # fmt: skip
def test_file_proofs_of_another_outline_are_refused(change: dict[str, Any]) -> None:
    value = make_dataset.PROOFS["file_first"][1] | change
    with pytest.raises(FormatError):
        manifests.check(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "change",
    [{"tree": 7}, {"digest": "ab"}, {"salt": "ab"}, {"of": []}, {"of": {"root": 1}}],
)
def test_record_proofs_of_another_outline_are_refused(change: dict[str, Any]) -> None:
    value = make_dataset.PROOFS["inclusion"][1] | change
    with pytest.raises(FormatError):
        manifests.check(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(FormatError, match=r"p\.json: the proof is not in canonical form"):
        manifests.check(json.dumps(make_dataset.PROOFS["inclusion"][1]).encode(), file="p.json")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({1: 2}, "a name that is no string"),
        ({"\ud800": 1}, "half of a surrogate pair"),
        ({"a": {1, 2}}, "a value of type set has no canonical form"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_values_without_a_text_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        canonical(value)


def test_depth_without_end_is_refused() -> None:
    with pytest.raises(FormatError, match="nested more than 128 deep"):
        canonical(parse_json(b"[" * 100_000))
    with pytest.raises(FormatError, match="nested more than 128 deep"):
        canonical(parse_json(b"[" * 200 + b"]" * 200))


def test_an_opened_tree_ends_at_the_last_bit() -> None:
    step = bytes([opened.NODE])
    with pytest.raises(FormatError, match="no step of an opened tree"):
        opened.read(step * 300 + b"\0\0" * 301)
