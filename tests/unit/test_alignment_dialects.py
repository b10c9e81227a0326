"""Every architecture of the table: what was done to it is found and undone, never in strangers."""

from __future__ import annotations

import json

import by_hand
import numpy as np
import pytest
from architectures_by_hand import DIALECTS
from by_hand import drawn, hidden, tuned, written
from makers import Array
from safetensors.numpy import load, save

from lineage.alignment import Alignment, Stream, fused, head_rows, solve
from lineage.alignment.applied import aligned
from lineage.alignment.certificate import check, from_bytes, to_bytes
from lineage.alignment.fused import fitting
from lineage.artifacts import read
from lineage.errors import ArchitectureError, FormatError
from lineage.fingerprints.fused import WAYS, Layout, layouts

ALONE = ("units", "heads", "values", "queries", "permuted", "rotated")
ALL = ("units", "heads", "values", "queries")


def solved(a: dict[str, Array], b: dict[str, Array]) -> tuple[Alignment, dict[str, Array]]:
    """Align b with a, by way of the certificate's bytes; return b in a's coordinates."""
    with read(a) as one, read(b) as other:
        first, second = Stream.of(one.items, name="a"), Stream.of(other.items, name="b")
        found = solve(first, second)
        again = from_bytes(to_bytes(found, "00", "11"), "00", "11")
        check(again, first, second)
        assert isinstance(again, Alignment)
        undone = {}
        for item in aligned(first, second, again).items:
            raw = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
            undone[item.name] = np.frombuffer(bytes(raw), np.float32).reshape(item.shape)
        return found, undone


def furthest(a: dict[str, Array], b: dict[str, Array]) -> float:
    return max(
        float(np.linalg.norm(a[n] - b[n]) / (np.linalg.norm(a[n]) + 1e-30)) for n in a
    )  # fmt: skip


def worn(name: str, *disguises: str) -> tuple[str, ...]:
    """What norms forbid is left: a stream behind which they stand is not turned but permuted."""
    kind = DIALECTS[name]
    other = {"rotated": "permuted"} if kind.has_after else {}
    other |= {"queries": "heads"} if kind.norms_in_heads else {}
    return tuple(other.get(one, one) for one in disguises)


@pytest.mark.parametrize("disguise", [*ALONE, "all"])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_disguise_is_undone_to_rounding(name: str, disguise: str) -> None:
    kind = DIALECTS[name]
    parts = drawn(kind, 1)
    names = worn(name, *((*ALL, "rotated") if disguise == "all" else (disguise,)))
    base, other = written(parts, kind), written(hidden(parts, kind, 3, *names), kind)
    found, undone = solved(base, other)
    assert found.related
    assert found.how
    assert furthest(base, other) > 0.1 or kind.groups == 1
    assert furthest(base, undone) < 1e-5


@pytest.mark.parametrize("name", DIALECTS)
def test_what_came_after_is_what_is_left(name: str) -> None:
    kind = DIALECTS[name]
    parts = drawn(kind, 1)
    after = tuned(hidden(parts, kind, 3, *worn(name, *ALL, "rotated")), 0.05, 5)
    base = written(parts, kind)
    found, undone = solved(base, written(after, kind))
    assert found.related
    left = [float(np.linalg.norm(base[n] - undone[n]) / np.linalg.norm(base[n])) for n in base]
    assert 0.01 < np.median(left) < 0.15


@pytest.mark.parametrize("name", DIALECTS)
def test_strangers_stay_strangers(name: str) -> None:
    kind = DIALECTS[name]
    base = written(drawn(kind, 1), kind)
    for seed in range(4):
        other = hidden(drawn(kind, 50 + seed), kind, seed, *worn(name, *ALL, "rotated"))
        found, _ = solved(base, written(other, kind))
        assert not found.related
        assert found.log10_p > -4


@pytest.mark.parametrize("name", [name for name in DIALECTS if DIALECTS[name].is_centred])
def test_a_shift_that_norms_take_away_is_named_and_undone(name: str) -> None:
    kind = DIALECTS[name]
    parts = drawn(kind, 1)
    base = written(parts, kind)
    for names in (("shifted",), ("units", "heads", "permuted", "shifted")):
        found, undone = solved(base, written(hidden(parts, kind, 3, *names), kind))
        assert "shifted" in found.how
        assert furthest(base, undone) < 1e-5
    after = tuned(hidden(parts, kind, 3, "units"), 0.1, 5)
    assert "shifted" not in solved(base, written(after, kind))[0].how


def test_gains_less_one_are_read_as_what_they_are() -> None:
    for name in ("gemma", "internlm2"):
        kind = DIALECTS[name]
        base = written(drawn(kind, 1), kind)
        with read(base) as model:
            stream = Stream.of(model.items, name="a")
            assert stream.one == int(kind.adds_one)


def test_gains_that_could_be_either_are_read_as_the_other_model_says() -> None:
    kind = DIALECTS["gemma"]
    parts = drawn(kind, 1)
    draw = np.random.default_rng(0)
    for name in parts:
        if by_hand.role(name) in ("attn_norm", "mlp_norm", "norm"):
            parts[name] = draw.uniform(0.5, 2.5, parts[name].shape)
    base = written(parts, kind)
    with read(base) as model:
        assert Stream.of(model.items, name="a").says_one is None
    _, undone = solved(base, written(hidden(parts, kind, 3, "rotated"), kind))
    assert furthest(base, undone) < 1e-5


@pytest.mark.parametrize("name", ["neox", "falcon", "internlm2", "qwen-3"])
def test_a_wide_stream_is_looked_at_along_some_directions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, most in (
        (fused, "_LOOKED_ALONG"),
        (head_rows, "_PROJECTED"),
        (head_rows, "_FITTED"),
    ):
        monkeypatch.setattr(module, most, 40)
    kind = DIALECTS[name]
    parts = drawn(kind, 1)
    base = written(parts, kind)
    other = written(hidden(parts, kind, 3, *worn(name, *ALL, "rotated")), kind)
    assert furthest(base, solved(base, other)[1]) < 1e-5


@pytest.mark.parametrize("row", [{"size": 7}, {"way": None}, {"way": "back to front"}, {"size": 0}])
def test_rows_that_lie_otherwise_are_refused(row: dict[str, object]) -> None:
    kind = DIALECTS["neox"]
    parts = drawn(kind, 1)
    with (
        read(written(parts, kind)) as one,
        read(written(hidden(parts, kind, 3, *ALL), kind)) as other,
    ):
        a, b = Stream.of(one.items, name="a"), Stream.of(other.items, name="b")
        data = to_bytes(solve(a, b), "00", "11")
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        text = json.loads(head["lineage"])
        text["blocks"][0]["heads"] |= row
        with pytest.raises(FormatError, match=r"heads|no alignment"):
            check(from_bytes(save(load(data), {"lineage": json.dumps(text)}), "00", "11"), a, b)


def test_units_that_are_read_and_not_written_are_refused() -> None:
    kind = DIALECTS["neox"]
    base = written(drawn(kind, 1), kind)
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h"
    base[f"{name}.weight"] = base[f"{name}.weight"][:80]
    base[f"{name}.bias"] = base[f"{name}.bias"][:80]
    with read(base) as model:
        stream = Stream.of(model.items, name="a")
        with pytest.raises(ArchitectureError, match="does not fit"):
            stream.block("blk", 1)


def test_rows_are_parted_as_the_layout_says() -> None:
    q, k, v = Layout(WAYS[0], 2).rows(8, 4)
    assert q.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert (k.tolist(), v.tolist()) == ([4, 5, 12, 13], [6, 7, 14, 15])
    q, k, v = Layout(WAYS[1], 2).rows(8, 4)
    assert (q.tolist(), k.tolist(), v.tolist()) == (
        list(range(8)),
        [8, 9, 10, 11],
        [12, 13, 14, 15],
    )
    with pytest.raises(ValueError, match="heads"):
        Layout(WAYS[0], 3).rows(8, 4)
    assert list(layouts(8, 3)) == []
    assert fitting([], []) == []
