"""The neuron sketch: a few bits for each of some units, the same in whatever coordinates they are.

A unit is known by what it answers to a fixed set of labelled vectors, and not by its weights: the
answers stay as they are when the stream is turned, permuted or scaled, and units keep theirs when
they change places. Answers to embeddings as they are would be alike in models of one kind of data,
so they are taken along those directions alone that the labelled vectors hardly use, each as strong
as the other. Of these, fixed sums with signs are taken, and the sign of each sum is kept. A unit is
looked at twice, in two matrices that were drawn independently: see `lineage.evidence.neurons`.

Labels are chosen, and signed, by their digests, so that other tokens beside them change little.
Units are chosen by their norm, which no disguise changes: a gate's, or what a unit reads times what
it writes.

`lineage/spec/fingerprint-v1.md` has it in rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.digest import blake3_digest
from lineage.errors import ArchitectureError
from lineage.fingerprints.stream import ANCHORS, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lineage.artifacts import Artifact

__all__ = ["BITS", "BLOCKS", "BYTES", "KINDS", "LABELS", "SCHEME", "UNITS", "Neurons", "neurons"]

BLOCKS, UNITS, LABELS, BITS = 8, 128, 256, 128
"""Blocks that are sketched, units of each, labelled vectors, and bits of one look, at most."""

BYTES = BITS // 8

SCHEME = f"neurons-v1/blocks={BLOCKS}/units={UNITS}/labels={LABELS}/bits={BITS}/seed=blake3"

KINDS = ("tokens", "numbers")
"""What labels may be: the strings of tokens, or the numbers of tokens, places, pixels."""

_TAG = b"lineage/neurons/v1\0"

_LEAST_ENERGY = 1e-8
"""Of the largest: below it a direction has no labelled vector."""

_LEAST_DIRECTIONS = 8
"""Quiet directions under which units are not told apart."""

_ROWS = 512
"""Units that are looked at at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Neurons:
    """The neuron sketch of one model.

    Attributes:
        kinds: What the labels are, of `KINDS` in their order: `numbers`, or both.
        is_gated: Whether the looks are at gates and what units read; else at what they read and
            what they write.
        blocks: Stack, number and units of each block that is sketched.
        raw: For each kind, for each block: the first look at all its units, then the second, 16
            bytes a unit, lowest bit first.
    """

    kinds: tuple[str, ...]
    is_gated: bool
    blocks: tuple[tuple[str, int, int], ...]
    raw: bytes = field(repr=False)

    def looks(self, kind: str) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return for each block its units' two looks: float32, shape (units, 128), of 1 and -1."""
        whole = np.frombuffer(self.raw, np.uint8).reshape(len(self.kinds), -1, BYTES)
        rows = np.unpackbits(whole[self.kinds.index(kind)], axis=1, bitorder="little")
        signs = np.float32(1) - 2 * rows.astype(np.float32)
        found, at = [], 0
        for *_, units in self.blocks:
            found.append((signs[at : at + units], signs[at + units : at + 2 * units]))
            at += 2 * units
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what a stored fingerprint says of it beside the bits."""
        return {
            "scheme": SCHEME,
            "labels": list(self.kinds),
            "gated": self.is_gated,
            "blocks": [list(block) for block in self.blocks],
        }


def neurons(artifact: Artifact, tokens: tuple[str, ...] | None = None) -> Neurons | None:
    """Sketch the units of a model; of eight blocks, two matrices each are read.

    Args:
        artifact: Open.
        tokens: The strings of its tokens, by their numbers, where they are known.

    Returns:
        None where no stream, or too few labelled vectors, are known by names and shapes.

    Raises:
        FormatError: If the bytes cannot be read.
    """
    try:
        stream = Stream.of(artifact.items, name=artifact.path, are_numbers=False)
    except ArchitectureError:
        return None
    planes = {"numbers": _plane(_of_numbers(stream))}
    if planes["numbers"] is None:
        return None
    planes["tokens"] = _plane(_of_tokens(stream, tokens))
    known = {kind: planes[kind] for kind in KINDS if planes[kind] is not None}
    kinds, plane = tuple(known), np.hstack([one for one in known.values() if one is not None])
    stems = [
        (where, stem)
        for where in _spread(stream.blocks)
        if (stem := stream.first_mlp(*where)) is not None
    ]
    is_gated = all(f"{stem}ffn_gate.weight" in stream.places for _, stem in stems)
    roles = ("ffn_gate", "ffn_up") if is_gated else ("ffn_up", "ffn_down")
    blocks, looks = [], []
    for where, stem in stems:
        try:
            first, second = (_answers(stream, f"{stem}{role}", plane) for role in roles)
        except ArchitectureError:  # this block does not fit
            continue
        if len(first.bits) != len(second.bits):
            continue
        both = first.norms * second.norms
        size = np.where(both > 0, first.norms, 0) if is_gated else both
        chosen = np.sort(np.argsort(-size, kind="stable")[: min(UNITS, int(np.sum(size > 0)))])
        if not len(chosen):
            continue
        blocks.append((*where, len(chosen)))
        looks.append((first.bits[chosen], second.bits[chosen]))
    if not blocks:
        return None
    raw = b"".join(
        look[:, k * BYTES : (k + 1) * BYTES].tobytes()
        for k in range(len(kinds))
        for pair in looks
        for look in pair
    )
    return Neurons(kinds, is_gated, tuple(blocks), raw)


def _spread(blocks: tuple[tuple[str, int], ...]) -> list[tuple[str, int]]:
    """Return some blocks evenly spread, the first and the last among them."""
    count = min(len(blocks), BLOCKS)
    return [blocks[i * (len(blocks) - 1) // max(count - 1, 1)] for i in range(count)]


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Labelled vectors.

    Attributes:
        labels: Their digests.
        vectors: Of each, shape (labels, width); each kind of vectors has a mean squared norm of 1.
    """

    labels: list[bytes]
    vectors: NDArray[np.float64]


def _of_tokens(stream: Stream, tokens: tuple[str, ...] | None) -> _Labelled | None:
    """Return some tokens' embeddings, by their strings."""
    count = stream.labels().get("token_embd", 0)
    if tokens is None or not count:
        return None
    known = [
        (b"token\0" + t.encode("utf-8", "surrogatepass"), n) for n, t in enumerate(tokens) if t
    ]
    return _some(stream, ((label, "token_embd", n) for label, n in known if n < count))


def _of_numbers(stream: Stream) -> _Labelled:
    """Return some labelled vectors by their numbers: of tokens, or else of all there is."""
    counts = stream.labels()
    roles = ["token_embd"] if "token_embd" in counts else [r for r in ANCHORS if r in counts]
    return _some(stream, ((f"{r}\0{n}".encode(), r, n) for r in roles for n in range(counts[r])))


def _some(stream: Stream, labels: Iterable[tuple[bytes, str, int]]) -> _Labelled:
    """Return those of some labels whose digests come first, in that order."""
    ranked = sorted((blake3_digest(_TAG + label), role, n) for label, role, n in labels)[:LABELS]
    places: dict[str, list[int]] = {}
    for at, (_, role, _) in enumerate(ranked):
        places.setdefault(role, []).append(at)
    vectors = np.zeros((len(ranked), stream.width))
    for role, those in places.items():
        found = stream.labelled(role, np.array([ranked[at][2] for at in those], np.intp))
        exact = _finite(found).astype(np.float64)
        norm = float(np.linalg.norm(exact))
        vectors[those] = exact * (len(those) ** 0.5 / norm if norm > 0 else 0.0)
    return _Labelled([digest for digest, *_ in ranked], vectors)


def _plane(labelled: _Labelled | None) -> NDArray[np.float32] | None:
    """Return what a unit's weights are multiplied with to get its answers, float32 (width, 128).

    E being the labelled vectors and U S V' their singular values, that is V U' of the quieter half,
    times a sign for each label and each answer. The small side's inner products suffice.
    """
    if labelled is None or not len(labelled.labels):
        return None
    rows = labelled.vectors
    energies, left = np.linalg.eigh(rows @ rows.T)
    used = energies > _LEAST_ENERGY * max(float(energies[-1]), 0.0)
    energies, left = energies[used], left[:, used]
    half = -(-len(energies) // 2)
    if half < _LEAST_DIRECTIONS:
        return None
    quiet = left[:, :half]
    signs = np.frombuffer(b"".join(d[-BYTES:] for d in labelled.labels), np.uint8)
    signs = np.unpackbits(signs.reshape(-1, BYTES), axis=1, bitorder="little")
    summed = quiet.T @ (1.0 - 2.0 * signs)
    found: NDArray[np.float32] = (rows.T @ (quiet / np.sqrt(energies[:half]) @ summed)).astype(
        "<f4"
    )
    return found


@dataclass(frozen=True, slots=True)
class _Answers:
    """What units answer: bits packed along a row for each unit, and the norm of what they read."""

    bits: NDArray[np.uint8]
    norms: NDArray[np.float64]


def _answers(stream: Stream, role: str, plane: NDArray[np.float32]) -> _Answers:
    """Ask all units of one matrix.

    A gain goes into the plane and not into the rows. Nor are rows centred: the sums of the plane's
    columns are 0 where they would be.

    Raises:
        ArchitectureError: If it does not lie along the stream.
    """
    gain = stream.gain_of(role)
    by = np.ones(stream.width, np.float32) if gain is None else gain
    asked, squared = by[:, None] * plane, by * by
    bits, norms = [], []
    for piece in stream.pieces(role, _ROWS):
        rows = piece if np.isfinite(piece.sum()) else _finite(piece)
        bits.append(np.packbits(rows @ asked < 0, axis=1, bitorder="little"))
        energies = (rows * rows) @ squared
        if stream.hides_means:
            energies = energies - (rows @ by) ** 2 / stream.width
        norms.append(np.sqrt(np.maximum(energies, 0), dtype=np.float64))
    return _Answers(np.concatenate(bits), np.concatenate(norms))


def _finite(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(rows), rows, np.float32(0))
