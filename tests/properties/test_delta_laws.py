"""What an adapter's identity survives and what it tells apart, over many adapters drawn at random.

The default run draws some hundreds; `-m slow` draws ten thousand.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage.adapters.base import Adapter, Change
from lineage.adapters.matrices import Product
from lineage.evidence.deltas import EXACT, ROUNDED, distance
from lineage.fingerprints import fingerprint
from lineage.fingerprints.delta import (
    BORDER,
    CODES,
    FEATURES,
    FINE,
    MOST_AT_BORDERS,
    NORM,
    Delta,
    delta_of,
)

Factors = dict[str, tuple[Any, Any]]

DTYPES: dict[str, Any] = {"float32": "f4", "float16": "f2", "bfloat16": ml_dtypes.bfloat16}


def drawn(draw: np.random.Generator) -> Factors:
    """An adapter of a few modules of some rank, in float32."""
    rank = int(draw.choice([1, 2, 3, 4, 8, 16]))
    found = {}
    for module in range(int(draw.integers(2, 6))):
        rows, cols = (int(n) for n in draw.integers(max(8, rank), 90, 2))
        size = float(np.exp(draw.normal(0, 0.5)))
        up, down = draw.standard_normal((rows, rank)) * size, draw.standard_normal((rank, cols))
        found[f"m.{module}.weight"] = up.astype("f4"), down.astype("f4")
    return found


def measured(factors: Factors) -> Delta:
    """The delta of some factors, of any dtype."""
    changes = []
    for name, pair in factors.items():
        up, down = (np.asarray(half, "f8") for half in pair)
        product = Product(up, down)
        changes.append(Change(name, "delta", product.shape, len(down), lambda p=product: p))
    return delta_of(Adapter("lora", tuple(changes), {}))


def turned(factors: Factors, draw: np.random.Generator, dtype: str) -> Factors:
    """The same changes by other factors: turned, stretched by up to 2 either way, and rounded."""
    found = {}
    for name, (up, down) in factors.items():
        rank = len(down)
        one, other = (np.linalg.qr(draw.standard_normal((rank, rank)))[0] for _ in range(2))
        stretch = np.exp(draw.uniform(-np.log(2), np.log(2), rank))
        new_up = (up.astype("f8") @ one) * stretch @ other
        new_down = (other.T / stretch) @ (one.T @ down.astype("f8"))
        found[name] = new_up.astype(DTYPES[dtype]), new_down.astype(DTYPES[dtype])
    return found


def padded(factors: Factors, draw: np.random.Generator) -> Factors:
    """The same changes by factors of a larger rank, some of it unused, the scale moved over."""
    found = {}
    for name, (up, down) in factors.items():
        more = int(draw.integers(1, 5))
        new_up = np.concatenate([up / 3, draw.standard_normal((len(up), more))], axis=1)
        found[name] = new_up, np.concatenate([3.0 * down, np.zeros((more, down.shape[1]))])
    return found


def trained(factors: Factors, draw: np.random.Generator, by: float) -> Factors:
    """Factors after a step that moves the changes by a share of their norm."""
    scale = by / 2**0.5
    return {
        name: tuple(h + scale * h.std() * draw.standard_normal(h.shape) for h in pair)  # type: ignore[misc]
        for name, pair in factors.items()
    }


def are_one(a: Delta, b: Delta) -> bool:
    """Whether two adapters are of one identity, by their ids alone."""
    return a.id in b.ids or b.id in a.ids


def run(count: int, seed: int) -> tuple[Counter[str], Counter[str], dict[str, float]]:
    """Draw adapters; count what went wrong and what was met, and how far they are apart at most."""
    wrong: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    extremes = {"rounded": 0.0, "turned": 0.0, "moved": 0.0, "trained": float("inf")}
    ids: set[str] = set()
    all_codes: set[str] = set()
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        factors = drawn(draw)
        found = measured(factors)
        codes = set(found.codes)
        wrong["two strangers of one id"] += bool(ids & set(found.ids))
        wrong["two strangers that share a code"] += bool(codes & all_codes)
        ids |= set(found.ids)
        all_codes |= codes
        wrong["another identity of padded factors"] += not are_one(
            measured(padded(factors, draw)), found
        )
        for dtype in DTYPES:
            other = measured(turned(factors, draw, dtype))
            apart = distance(found, other)
            wrong[f"no code shared ({dtype})"] += not codes & set(other.codes)
            if dtype == "float32":
                wrong["another identity (float32)"] += not (
                    other.id in found.ids and found.id in other.ids
                )
                seen["the other side of a line (float32)"] += other.id != found.id
                seen["several ids"] += len(found.ids) > 1
                extremes["turned"] = max(extremes["turned"], apart)
                moved = np.subtract(found.features, other.features)
                extremes["moved"] = max(extremes["moved"], float(np.abs(moved).max()))
            else:
                extremes["rounded"] = max(extremes["rounded"], apart)
        near = measured(trained(factors, draw, 0.01))
        wrong["trained by 1 %, of one identity"] += are_one(near, found)
        extremes["trained"] = min(extremes["trained"], distance(found, near))
        scaled = measured({k: (1.01 * up, down) for k, (up, down) in factors.items()})
        wrong["rescaled by 1 %, of one identity"] += are_one(scaled, found)
        dropped = measured(dict(list(factors.items())[1:]))
        wrong["one module dropped, of one id or code"] += bool(
            {*found.ids, *codes} & {*dropped.ids, *dropped.codes}
        )
    return wrong, seen, extremes


def assert_laws(count: int, seed: int) -> None:
    wrong, seen, extremes = run(count, seed)
    print(dict(wrong), dict(seen), extremes)
    assert not +wrong
    assert extremes["moved"] <= BORDER / 4
    assert extremes["turned"] <= EXACT
    assert extremes["rounded"] <= ROUNDED <= extremes["trained"]


DRAWN = measured(drawn(np.random.default_rng(0)))


def test_identities_over_some_hundred_adapters() -> None:
    assert_laws(300, seed=1)


@pytest.mark.slow
def test_identities_over_ten_thousand_adapters() -> None:
    assert_laws(10_000, seed=0)


def test_numbers_that_each_cross_a_line_leave_some_grid_alone() -> None:
    draw = np.random.default_rng(0)
    found = measured(drawn(draw))
    for _ in range(300):
        moved = found.features + draw.uniform(-1, 1, len(found.features)) / 129
        other = Delta(found.family, found.changes, tuple(map(float, moved)), {})
        shared = set(found.codes) & set(other.codes)
        assert len(shared) >= CODES - len(moved)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, MOST_AT_BORDERS))
def test_no_border_parts_what_is_within_the_tolerance(seed: int, at_borders: int) -> None:
    """Numbers are put next to lines, where chance puts one adapter in fifty, and moved across."""
    draw = np.random.default_rng(seed)
    found = DRAWN
    steps = np.array([FINE] * FEATURES + [NORM] * (len(found.features) - FEATURES))
    cells = draw.integers(-300, 300, len(steps)) + draw.uniform(0.1, 0.4, len(steps))
    places = draw.permutation(len(steps))[:at_borders]
    cells[places] = np.floor(cells[places]) + 0.5
    off = draw.uniform(-1, 1, (2, len(steps))) * 0.49 * BORDER
    one, other = (
        Delta(found.family, found.changes, tuple(map(float, cells / steps + by)), {}) for by in off
    )
    assert one.id in other.ids
    assert other.id in one.ids
    assert len(one.ids) == len(other.ids) == 2**at_borders
    cells[draw.integers(len(steps))] += 2
    assert not are_one(
        one, Delta(found.family, found.changes, tuple(map(float, cells / steps)), {})
    )


def test_an_adapter_at_many_borders_has_one_identity() -> None:
    steps = [FINE] * FEATURES + [NORM]
    found = Delta("lora", DRAWN.changes, tuple(0.5 / step for step in steps), {})
    assert found.ids == (found.id,)


def test_dialects_containers_and_wider_dtypes_are_one(tmp_path: Any) -> None:
    from safetensors.numpy import save_file

    for seed in range(10):
        draw = np.random.default_rng(seed)
        up, down = draw.standard_normal((30, 4)), draw.standard_normal((4, 20))
        halves = [half.astype("f2") for half in (up, down)]
        name = "down_blocks.0.attentions.0.proj_in"
        kohya = f"lora_unet_{name.replace('.', '_')}"
        spelled: list[dict[str, Any]] = [
            {f"unet.{name}.lora_B.weight": halves[0], f"unet.{name}.lora_A.weight": halves[1]},
            {f"base_model.model.{name}.lora_{k}.weight": h for k, h in zip("BA", halves, strict=True)},
            {
                f"{kohya}.lora_up.weight": halves[0] * np.float16(2),
                f"{kohya}.lora_down.weight": halves[1],
                f"{kohya}.alpha": np.full((), 2, np.float32),
            },
            {f"unet.{name}.lora.up.weight": halves[0].astype("f4"), f"unet.{name}.lora.down.weight": halves[1].astype("f8")},
        ]  # fmt: skip
        ids = set()
        for number, tensors in enumerate(spelled):
            save_file(tensors, tmp_path / f"{number}.safetensors")
            np.savez(tmp_path / f"{number}.npz", **tensors)
            for suffix in ("safetensors", "npz"):
                delta = fingerprint(tmp_path / f"{number}.{suffix}").delta
                assert delta is not None
                ids.add(delta.id)
        assert len(ids) == 1
