"""Where the change is, and which of two models came first."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence import compare_fingerprints
from lineage.evidence.direction import slope
from lineage.evidence.pairing import pair
from lineage.fingerprints import fingerprint

Arrays = dict[str, np.ndarray]


def start() -> Arrays:
    draw = np.random.default_rng(1)
    return {
        name: draw.normal(size=shape).astype(np.float32)
        for name, shape in (("up", (192, 96)), ("down", (96, 192)))
    }


def stepped(model: Arrays, seed: int, decay: float = 0.0) -> Arrays:
    """Move some rows more than others, and shrink all."""
    draw = np.random.default_rng([5, seed])
    found = {}
    for name, values in model.items():
        size = 0.4 * draw.gamma(1.0, 1.0, len(values))[:, None]
        found[name] = ((1 - decay) * values + size * draw.normal(size=values.shape)).astype("f4")
    return found


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.3])
def test_rows_that_changed_more_grew_more_whatever_the_decay(decay: float) -> None:
    one, other = fingerprint(start()), fingerprint(stepped(start(), 1, decay))
    assert slope(pair(one, other)) > 2
    assert slope(pair(other, one)) == pytest.approx(-slope(pair(one, other)), rel=0.05)


def test_the_slope_is_the_same_where_matrices_lie_turned() -> None:
    child = stepped(start(), 1)
    turned = {name: np.ascontiguousarray(values.T) for name, values in child.items()}
    straight = slope(pair(fingerprint(start()), fingerprint(child)))
    found = slope(pair(fingerprint(start()), fingerprint(turned)))
    assert found == pytest.approx(straight, rel=0.05)


def test_siblings_alike_have_no_slope_to_speak_of() -> None:
    found = [
        slope(pair(fingerprint(stepped(start(), 2 * k)), fingerprint(stepped(start(), 2 * k + 1))))
        for k in range(8)
    ]
    assert abs(np.mean(np.sign(found))) < 0.9


def test_rows_speak_where_decay_has_turned_the_norms() -> None:
    one, other = fingerprint(start()), fingerprint(stepped(start(), 1, 0.3))
    assert compare_fingerprints(one, other).margin < 0
    assert compare_fingerprints(one, other).direction != "b->a"


def test_what_is_equal_has_no_slope() -> None:
    assert slope(pair(fingerprint(start()), fingerprint(start()))) == 0.0
