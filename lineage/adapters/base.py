"""What an adapter is once its dialect is gone: changes of named modules, loaded one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lineage.adapters.tensors import Stored

__all__ = ["KINDS", "Adapter", "Change", "Fold", "Group", "Kind", "Matrix", "Scaling", "Unread"]

Kind = Literal["delta", "gain_in", "gain_out", "magnitude", "whole"]

KINDS: dict[Kind, str] = {
    "delta": "delta", "gain_in": "gain", "gain_out": "gain", "magnitude": "magnitude",
    "whole": "whole",
}  # fmt: skip
"""What is done to a base's tensor -> the group whose norm it counts in. A `delta` is added to it;
its columns are multiplied with 1 + `gain_in`, its rows with 1 + `gain_out`; the norms of its rows
become the `magnitude` (DoRA); a `whole` takes its place."""


class Fold(Protocol):
    """Adds up rows or columns into the buckets of a sketch, with its signs."""

    def rows(self, matrix: NDArray[np.float64], start: int = 0) -> NDArray[np.float64]:
        """Return the matrix with its rows folded; its first is row `start` of a larger one."""
        ...

    def cols(self, matrix: NDArray[np.float64], start: int = 0) -> NDArray[np.float64]:
        """Return the matrix with its columns folded, likewise."""
        ...


class Matrix(Protocol):
    """A matrix that is known by its factors; it is never formed whole."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def energy(self) -> float:
        """Return its squared Frobenius norm."""
        ...

    def folded(self, fold: Fold) -> NDArray[np.float64]:
        """Return its core: rows and columns folded."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter does to one tensor of its base.

    Attributes:
        name: The tensor's canonical name.
        kind: What is done to it.
        shape: (rows, columns) of a matrix, (places,) of a vector.
        rank: How many columns the stored factors have between them; None where there are none.
        load: Reads the factors and gives the change, scaled; a vector laid out in rows.
        turned: Whether the base keeps the transpose (GPT-2's `Conv1D`).
        base: The base's tensor, where it has another name: layers may be repeated.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    rank: int | None
    load: Callable[[], Matrix] = field(repr=False, compare=False)
    turned: bool = False
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter, open for reading.

    Attributes:
        family: `lora`, `loha`, `lokr`, `ia3`, `vera` or `full`; several joined by `+`.
        changes: By name and kind, each pair once.
        says: What it declares of itself and its base, as written.
    """

    family: str
    changes: tuple[Change, ...]
    says: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unread:
    """An adapter of a kind whose change cannot be told from its file.

    Attributes:
        reason: Why, in one line.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Group:
    """The tensors that are stored for one module.

    Attributes:
        module: The module as its file has it, wrappers taken off.
        tensors: Role -> tensor.
        file: What errors call the file.
    """

    module: str
    tensors: Mapping[str, Stored]
    file: str


class Scaling(Protocol):
    """Says with what a module's product is multiplied, and what its configuration asks of it."""

    def of(self, group: Group, rank: int | None, *, tensor: str) -> float:
        """Return the scale of a product of this rank; of one that has none, rank None.

        Raises:
            FormatError: If the configuration names another rank than the tensors have.
        """
        ...

    def said(self, group: Group, key: str) -> Any:
        """Return what the configuration that a module is under says; None without one."""
        ...
