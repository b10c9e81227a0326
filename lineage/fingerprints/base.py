"""The values of this floor: what is kept of one tensor, and of one model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from lineage import canonical
from lineage.digest import sha256_digest
from lineage.fingerprints import identity
from lineage.fingerprints.lattice import NO_LATTICE, Lattice

if TYPE_CHECKING:
    from lineage.artifacts.dialects import Part
    from lineage.fingerprints.delta import Delta
    from lineage.fingerprints.neurons import Neurons
    from lineage.fingerprints.sketch import Sketch


class PartPrint(NamedTuple):  # and others on this way: see `artifacts.base`
    """What is kept of some rows or columns that are a tensor of their own in other dialects.

    Attributes:
        part: Which, and under what name.
        sketch: As that tensor's own would be.
    """

    part: Part
    sketch: Sketch


@dataclass(frozen=True, slots=True, eq=False)
class TensorPrint:
    """What is kept of one tensor.

    Attributes:
        name: As stored.
        dtype: As stored, in safetensors' spelling.
        shape: Row-major.
        content: BLAKE3 over dtype, shape and raw bytes.
        value: The content digest of the same values in the narrowest dtype that holds them all;
            equal for tensors with equal values whatever the precision they are stored in.
        rounded: Content digests of the values rounded to narrower dtypes that do not hold them
            all, as (dtype, digest): what a cast copy of this tensor would have.
        sketch: None where there are no numbers to sketch (packed dtypes, no values).
        nonfinite: How many values are NaN, infinite or beyond 2^60; the sketch takes them as 0.
        lattice: Evenly spaced levels, where the values lie on them.
        parts: Of a fused tensor, what it holds; no digest covers them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes
    value: bytes
    rounded: tuple[tuple[str, bytes], ...]
    sketch: Sketch | None
    nonfinite: int = 0
    lattice: Lattice = NO_LATTICE
    parts: tuple[PartPrint, ...] = ()

    @property
    def size(self) -> int:
        """How many values."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Everything that is known of a model once its weights are gone.

    Two fingerprints are the same object or not; to ask whether two *models* are the same, compare
    their `root`.

    Attributes:
        tensors: In the order of their names' UTF-8 bytes.
        scheme: The name of the sketches' scheme; it holds every parameter.
        size_bytes: Bytes of all tensors as stored.
        neurons: What finds relatives in other coordinates, where it was asked for and there is a
            stream that is known by names and shapes; no digest covers it.
        delta: What an adapter changes, where it is one whose change can be told.
    """

    tensors: tuple[TensorPrint, ...]
    scheme: str
    size_bytes: int
    neurons: Neurons | None = None
    delta: Delta | None = None

    @cached_property
    def root(self) -> str:
        """The exact identity: 64 hex digits over every (name, dtype, shape, bytes)."""
        return identity.root((t.name, t.content) for t in self.tensors).hex()

    @cached_property
    def content_id(self) -> str:
        """64 hex digits over the tensors' contents alone; a renamed copy has the same."""
        return identity.unnamed_root("content", (t.content for t in self.tensors)).hex()

    @cached_property
    def value_id(self) -> str:
        """64 hex digits over the tensors' values alone; a losslessly cast copy has the same."""
        return identity.unnamed_root("value", (t.value for t in self.tensors)).hex()

    @cached_property
    def manifest_sha256(self) -> str:
        """SHA-256 of the canonical list of tensors, for formats that ask for a SHA-256."""
        rows = [[t.name, t.dtype, list(t.shape), t.content.hex()] for t in self.tensors]
        return sha256_digest(canonical.dumps(rows)).hex()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know about tensors that have no full sketch, a line each."""
        lines = []
        for tensor in self.tensors:
            if 0 in tensor.shape:
                shape = list(tensor.shape)
                reason = f"shape {shape} holds no values; its identity is exact, it has no sketch"
            elif tensor.nonfinite:
                reason = (
                    f"{tensor.nonfinite} of {tensor.size} values are NaN, infinite or beyond 2^60; "
                    "its identity is exact, it is left out of comparisons"
                )
            else:
                continue
            lines.append(f"tensor '{tensor.name}': {reason}")
        return tuple(lines)
