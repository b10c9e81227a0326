"""How surely networks without a stream are said to be one: of strangers of one kind of data.

What data tell is made here by hand: channels get shares in jobs, and what each job reads, tells the
others and says is the same in all networks. Shares and first weights are each network's own.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import binom

from lineage.alignment import described, solve
from lineage.artifacts import read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.alignment import Aligned

    Matrix = NDArray[np.float64]
    Weights = dict[str, NDArray[Any]]

WORDS, INNER, PIXELS, CLASSES, JOBS = 64, 24, 64, 10, 16
NETWORKS = 10
MAKES = {"lstm": 4, "gru": 3, "rnn": 1, "hidden": 0, "hidden twice": -1}
"""Make -> gates of a recurrent network; of classifiers none."""

_DATA = 1


def taught(make: str, seed: int, units: int = 40) -> Weights:
    """Return a network that data have given its jobs."""
    rng = np.random.default_rng(seed)
    gates = MAKES[make]
    weights = recurrent(rng, units, gates) if gates > 0 else classifier(rng, units, 1 - gates)
    return {name: values.astype("f4") for name, values in weights.items()}


def recurrent(rng: np.random.Generator, units: int, gates: int) -> dict[str, Matrix]:
    """Return an embedding, a recurrent layer, and an output."""
    of = np.random.default_rng(_DATA)
    reads, tells = of.normal(size=(gates, JOBS, WORDS)), of.normal(size=(gates, JOBS, JOBS))
    says = of.normal(size=(JOBS, WORDS))
    jobs, embedding = shares(rng, units), rng.normal(size=(WORDS, INNER))
    wanted = np.einsum("uj,gjw->guw", jobs, reads).reshape(-1, WORDS)
    told = np.einsum("uj,gjk,vk->guv", jobs, tells, jobs).reshape(-1, units)
    return {
        "embedding.weight": embedding,
        "rnn.weight_ih_l0": begun(rng, np.linalg.lstsq(embedding, wanted.T, rcond=None)[0].T),
        "rnn.weight_hh_l0": begun(rng, told, 1.0),
        "rnn.bias_ih_l0": rng.normal(size=gates * units),
        "rnn.bias_hh_l0": rng.normal(size=gates * units),
        "decoder.weight": begun(rng, (jobs @ says).T),
        "decoder.bias": rng.normal(size=WORDS),
    }


def classifier(rng: np.random.Generator, units: int, hidden: int) -> dict[str, Matrix]:
    """Return linear layers from places of an image to classes."""
    of = np.random.default_rng(_DATA)
    found, jobs = {}, np.eye(PIXELS)
    for layer in range(hidden):
        tells = of.normal(size=(JOBS, jobs.shape[1]))
        new = shares(rng, units)
        found[f"fc{layer}.weight"] = begun(rng, new @ tells @ jobs.T)
        found[f"fc{layer}.bias"] = rng.normal(size=units)
        jobs = new
    found["head.weight"] = begun(rng, (jobs @ of.normal(size=(JOBS, CLASSES))).T)
    found["head.bias"] = rng.normal(size=CLASSES)
    return found


def shares(rng: np.random.Generator, units: int) -> Matrix:
    """Return the share of each unit in each job: most have little but one."""
    found = rng.gamma(0.3, size=(units, JOBS))
    shares: Matrix = found / np.linalg.norm(found, axis=1, keepdims=True)
    return shares


def begun(rng: np.random.Generator, wanted: Matrix, left: float = 0.5) -> Matrix:
    """Add what an initialisation has left, so many times as much as what is wanted."""
    found: Matrix = wanted / wanted.std() + left * rng.normal(size=wanted.shape)
    return found


def solved(a: Weights, b: Weights) -> Aligned:
    one, other = (
        described(read(weights).items, name=name) for weights, name in ((a, "a"), (b, "b"))
    )
    return solve(one, other)


@pytest.mark.parametrize("make", MAKES)
def test_p_of_strangers_of_one_kind_of_data_is_not_too_small(make: str) -> None:
    networks = [taught(make, seed) for seed in range(NETWORKS)]
    found = [solved(a, b) for a, b in combinations(networks, 2)]
    assert not any(one.related for one in found)
    for limit in (0.1, 0.05, 0.01):
        below = sum(10**one.log10_p <= limit for one in found)
        assert binom.sf(below - 1, len(found), limit) > 0.01, (limit, below, len(found))


def test_each_tensor_is_counted_once() -> None:
    rng = np.random.default_rng(1)
    a, b = (
        {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
        for shapes in 2 * [{"fc0.weight": (40, PIXELS), "head.weight": (WORDS, 40)}]
    )
    assert solved(a, b).agreement.looked == 2 * 40


@pytest.mark.parametrize("make", MAKES)
def test_relatives_of_the_same_make_are_found(make: str) -> None:
    a, rng = taught(make, 1), np.random.default_rng(2)
    b = {name: (w + 0.3 * w.std() * rng.normal(size=w.shape)).astype("f4") for name, w in a.items()}
    assert solved(a, b).related
