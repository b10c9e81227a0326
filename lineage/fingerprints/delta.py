"""The identity and the sketch of what an adapter changes, however it is factored and named.

The sketch of each change is its core, in the one scheme of all sketches, from folded factors. The
features of the whole adapter are a few signed sums over all cores, each over the exact norm: they
depend on the changes alone. What they are rounded to is the identity, `id`; what they might have
been rounded to, had the factors been others, is in `ids`, so that no border parts what is the same.
Rounded coarsely on shifted grids they are `codes`, of which two adapters that are nearly the same
share some for certain. `lineage/spec/delta-v1.md` says it in words, and what near-ties come to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage import canonical
from lineage.adapters.base import KINDS
from lineage.adapters.names import slug
from lineage.artifacts.base import MAX_VALUES
from lineage.digest import blake3_digest, frame
from lineage.errors import FormatError
from lineage.fingerprints.folding import factors_of
from lineage.fingerprints.sketch import SIDE, Layout, sign_bits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lineage.adapters.base import Adapter, Change, Kind

__all__ = [
    "CODES", "COARSE", "FEATURES", "FINE", "GROUPS", "NORM", "SCHEME", "ChangePrint", "Delta",
    "delta_of",
]  # fmt: skip

FEATURES = 20
"""So many that two adapters 1 % apart have one identity less than once in 100,000 times, and no
more: each is one more that rounding may carry across a line."""

FINE, NORM = 64, 128
"""Steps of a feature, and of the natural logarithm of a norm, to one: those of the identity."""

BORDER = 2.0**-17
"""How near to a line of its grid a feature has both sides' identities: thirty times as far as
float32 factors were seen to move one."""

MOST_AT_BORDERS = 6
"""Numbers next to a line, beyond which an adapter has one identity: who drew them so did it on
purpose."""

COARSE, CODES = 4, 32
"""Steps of either to one on each of the shifted grids, and how many grids there are: more than
there are numbers, so that numbers which each cross a line of one grid leave some grid alone."""

GROUPS = ("delta", "gain", "magnitude", "whole")
"""Changes of one group are measured by one norm, so that what is large hides nothing small."""

_THREADS = 2
"""Modules that are loaded at once: as one is read, another is multiplied."""

_SMALL = 1 << 20
"""Weights that an adapter changes, below which threads cost more than they save."""

_MOST_ENERGY = 2.0**200
"""More than any weights have, less than the square of what float32 holds."""

_LEAST_ENERGY = 2.0**-200
"""Less than any change has that is meant; of smaller ones float32 holds too few digits, or none."""

_ROUNDED = 1e-3
"""How far features may be off those of cores that were rounded to float32: much more than rounding
comes to, much less than another adapter's are off."""

SCHEME = f"delta-v1/features={FEATURES}/fine={FINE}/norm={NORM}/coarse={COARSE}/codes={CODES}"


@dataclass(frozen=True, slots=True, eq=False)
class ChangePrint:
    """What is kept of one change.

    Attributes:
        name: The tensor's canonical name.
        kind: See `lineage.adapters.base.KINDS`.
        shape: (rows, columns) or (places,).
        rank: Of the stored factors; None where there are none.
        core: float64 as it was measured, or as it was read from float32.
        energy: The exact squared norm.
        turned: Whether the base keeps the transpose.
        base: The base's tensor, where it has another name.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    rank: int | None
    core: NDArray[np.float64]
    energy: float
    turned: bool = False
    base: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What it is sorted and matched by: the same for every dialect of names."""
        return slug(self.name), self.kind


@dataclass(frozen=True, eq=False)
class Delta:
    """Everything that is known of an adapter once its weights are gone.

    Attributes:
        family: Which kinds of factors it had.
        changes: In the order of their keys.
        features: `FEATURES` signed sums, then the logarithm of the norm of each group that has one.
        says: What it declares of itself and its base.
    """

    family: str
    changes: tuple[ChangePrint, ...]
    features: tuple[float, ...]
    says: Mapping[str, str]

    @property
    def id(self) -> str:
        """64 hex digits; which adapters have it is told by `ids`."""
        return self.ids[0]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """`id`, and those of the cells beyond every line that a feature lies next to.

        Of two adapters whose features are all within `BORDER` of each other, each has the other's
        `id` among them.
        """
        steps = [FINE] * FEATURES + [NORM] * (len(self.features) - FEATURES)
        scaled = [(x * n + 0.5, BORDER * n) for x, n in zip(self.features, steps, strict=True)]
        own = [math.floor(x) for x, _ in scaled]
        cells = [
            dict.fromkeys((cell, math.floor(x - off), math.floor(x + off)))
            for cell, (x, off) in zip(own, scaled, strict=True)
        ]
        if sum(len(sides) > 1 for sides in cells) > MOST_AT_BORDERS:
            cells = [dict.fromkeys((cell,)) for cell in own]
        return tuple(
            _digest("lineage/delta-id/v1", self._modules, found).hex() for found in product(*cells)
        )

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """32 hex digits for each shifted grid; adapters that share one may be nearly the same."""
        found = []
        for grid in range(CODES):
            cells = [grid, *(math.floor(x * COARSE + grid / CODES) for x in self.features)]
            found.append(_digest("lineage/delta-code/v1", self._modules, cells).hex()[:32])
        return tuple(found)

    @property
    def rank(self) -> int | None:
        """The commonest rank."""
        ranks = [change.rank for change in self.changes if change.rank is not None]
        return int(np.bincount(ranks).argmax()) if ranks else None

    @property
    def norm(self) -> float:
        """Frobenius norm of all that is added to weights and biases."""
        return math.sqrt(sum(c.energy for c in self.changes if c.kind == "delta"))

    @cached_property
    def _modules(self) -> bytes:
        """Which tensors are changed, and how; a change by nothing is none."""
        rows: list[Any] = [[*c.key, list(c.shape)] for c in self.changes if c.energy > 0]
        return canonical.dumps(rows)

    def to_json(self) -> dict[str, Any]:
        """Return what a stored fingerprint says of it beside its arrays."""
        rows = []
        for change in self.changes:
            row: dict[str, Any] = {
                "name": change.name, "kind": change.kind, "shape": list(change.shape),
                "rank": change.rank,
            }  # fmt: skip
            if change.turned:
                row["turned"] = True
            if change.base is not None:
                row["base"] = change.base
            rows.append(row)
        return {"scheme": SCHEME, "family": self.family, "changes": rows, "says": dict(self.says)}


def from_json(row: Any, cores: NDArray[np.float32], sums: NDArray[np.float64]) -> Delta:
    """Read what `to_json` and `arrays_of` wrote; slips raise the built-in errors.

    Raises:
        KeyError: If something is missing.
        TypeError: If something is of another type.
        ValueError: If the parts disagree.
    """
    if row["scheme"] != SCHEME:
        raise ValueError(f"it was made by {row['scheme']!r}, this version has {SCHEME}")
    if not isinstance(row["family"], str) or not isinstance(row["says"], dict):
        raise TypeError("its family is not text, or what it says no object")
    if not all(isinstance(value, str) for value in row["says"].values()):
        raise TypeError("what it says is not text")
    if not (np.isfinite(cores).all() and np.isfinite(sums).all()):
        raise ValueError("its numbers are not finite")
    energies, features = sums[: len(row["changes"])], sums[len(row["changes"]) :]
    changes, at = [], 0
    for one, energy in zip(row["changes"], energies, strict=True):
        change = _read(one, cores[at:], float(energy))
        at += change.core.size
        changes.append(change)
    if at != cores.size:
        raise ValueError("its cores are more than its changes ask for")
    keys = [change.key for change in changes]
    if keys != sorted(set(keys)):
        raise ValueError("its changes are not in order, each once")
    expected = features_of(changes)
    if len(features) != len(expected):
        raise ValueError("its features are not as many as it asks for")
    if any(abs(x - y) > _ROUNDED for x, y in zip(features, expected, strict=True)):
        raise ValueError("its features are not those of its cores")
    return Delta(row["family"], tuple(changes), tuple(map(float, features)), row["says"])


def arrays_of(delta: Delta) -> tuple[bytes, bytes]:
    """Return an adapter's cores (float32), and its energies and features (float64)."""
    cores = b"".join(change.core.astype("<f4").tobytes() for change in delta.changes)
    energies = [change.energy for change in delta.changes]
    return cores, np.array([*energies, *delta.features], "<f8").tobytes()


def _read(row: Any, cores: NDArray[np.float32], energy: float) -> ChangePrint:
    shape, rank, base = tuple(row["shape"]), row["rank"], row.get("base")
    if not isinstance(row["name"], str) or not isinstance(base, str | None):
        raise TypeError("a name is not text")
    if row["kind"] not in KINDS or type(row.get("turned", False)) is not bool:
        raise ValueError("a change is of no kind that is known")
    is_shape = all(type(extent) is int and 0 < extent < 2**53 for extent in shape)
    if not is_shape or len(shape) not in {1, 2} or math.prod(shape) > MAX_VALUES:
        raise ValueError("a change has a shape that is none")
    if rank is not None and not (type(rank) is int and 0 < rank < 2**53):
        raise ValueError("a rank is not one")
    height, width = Layout.of(shape).core_shape
    if cores.size < height * width:
        raise ValueError("its cores end too soon")
    core = cores[: height * width].reshape(height, width).astype(np.float64)
    if energy < 0 or (energy == 0 and core.any()):
        raise ValueError("an energy is negative, or 0 beside a core that is not")
    return ChangePrint(
        row["name"], row["kind"], shape, rank, core, energy, row.get("turned", False), base
    )


def _digest(tag: str, modules: bytes, cells: Sequence[int]) -> bytes:
    numbers = b"".join(cell.to_bytes(8, "little", signed=True) for cell in cells)
    return blake3_digest(frame(tag, SCHEME.encode(), modules, numbers))


def delta_of(adapter: Adapter) -> Delta:
    """Measure an open adapter, a few modules at a time.

    Raises:
        FormatError: If a factor holds what is no number, or a product is too large for one.
    """
    if sum(math.prod(change.shape) for change in adapter.changes) < _SMALL:
        measured = [_measured(change) for change in adapter.changes]
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            measured = list(pool.map(_measured, adapter.changes))
    prints = sorted(measured, key=lambda change: change.key)
    return Delta(adapter.family, tuple(prints), features_of(prints), adapter.says)


def _measured(change: Change) -> ChangePrint:
    matrix = change.load()
    layout = Layout.of(change.shape)
    core = matrix.folded(_Fold(layout.side))[: layout.core_shape[0], : layout.core_shape[1]]
    energy = matrix.energy()
    if not energy < _MOST_ENERGY:  # not a number, either
        raise FormatError("its factors multiply to more than any weights", tensor=change.name)
    if energy < _LEAST_ENERGY:
        core, energy = np.zeros_like(core), 0.0
    return ChangePrint(
        change.name, change.kind, change.shape, change.rank, core, energy, change.turned,
        change.base,
    )  # fmt: skip


def features_of(changes: Iterable[ChangePrint]) -> tuple[float, ...]:
    """Return an adapter's features, from its cores and energies."""
    changes = [change for change in changes if change.energy > 0]
    energies = dict.fromkeys(GROUPS, 0.0)
    for change in changes:
        energies[KINDS[change.kind]] += change.energy
    sums = np.zeros(FEATURES)
    for change in changes:
        signs = factors_of(_signs(change), 0, FEATURES * change.core.size)
        found = signs.reshape(FEATURES, -1) @ change.core.reshape(-1)
        sums += found / math.sqrt(energies[KINDS[change.kind]])
    norms = [0.5 * math.log(energies[group]) for group in GROUPS if energies[group] > 0]
    return (*map(float, sums), *norms)


def _signs(change: ChangePrint) -> bytes:
    from blake3 import blake3

    name, kind = change.key
    shape = b"".join(extent.to_bytes(8, "little") for extent in change.shape)
    framed = frame("lineage/delta-signs/v1", name.encode(), kind.encode(), shape)
    return blake3(framed).digest(-(-FEATURES * change.core.size // 8))


@dataclass(frozen=True, slots=True)
class _Fold:
    """The sketch's folds in float64, of rows into `side` buckets and of columns into 36."""

    side: int

    def rows(self, matrix: NDArray[np.float64], start: int = 0) -> NDArray[np.float64]:
        """Fold rows; see `lineage.adapters.base.Fold`."""
        side, cols = self.side, matrix.shape[1]
        core = np.zeros((side, cols))
        for at, first, rows, signs in _runs(matrix.shape[0], start, side):
            block = matrix[first : first + rows * signs.size]
            shaped = block.reshape(signs.size, rows, cols)
            core[at : at + rows] += np.einsum("g,gbc->bc", signs, shaped)
        return core

    def cols(self, matrix: NDArray[np.float64], start: int = 0) -> NDArray[np.float64]:
        """Fold columns; see `lineage.adapters.base.Fold`."""
        rows = matrix.shape[0]
        core = np.zeros((rows, SIDE))
        for at, first, cols, signs in _runs(matrix.shape[1], start, SIDE):
            block = matrix[:, first : first + cols * signs.size]
            shaped = block.reshape(rows, signs.size, cols)
            core[:, at : at + cols] += np.einsum("g,rgb->rb", signs, shaped)
        return core


def _runs(count: int, start: int, side: int) -> Iterator[tuple[int, int, int, NDArray[np.float64]]]:
    """Yield what is left of a first group, whole groups, and the beginning of a last one.

    Each as its first bucket, its first place, how many places a group has, and the groups' signs.
    """
    group, skip = divmod(start, side)
    signs = factors_of(sign_bits((start + count) // side + 8), group, (skip + count) // side + 1)
    head = min(count, -skip % side)
    if head:
        yield skip, 0, head, signs[:1]
    group = 1 if skip else 0
    whole = (count - head) // side
    if whole:
        yield 0, head, side, signs[group : group + whole]
    if tail := count - head - whole * side:
        yield 0, count - tail, tail, signs[group + whole : group + whole + 1]
