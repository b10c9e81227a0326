"""Which of many language models came first, by what predicts their tokens?

Some tokens never occur in what a model is trained on. Nothing but their scores is in the loss, and
that pushes these down, little by little and always the same way: with an optimizer that scales its
steps the rows of such tokens in the matrix that predicts them go on in one direction for as long as
training lasts, whatever it is trained on. So that matrix grows from parent to child, mostly by far
more than a new step's own energy, and where decay or short steps hide what all others gain.

It may be the table of tokens itself. Whether a model that has no other matrix for it predicts
tokens at all is not in its weights; an encoder of sentences does not, and its table does not grow.

Measured on steps of training of small networks (`benchmarks/zoo`) whose tokens are bytes, of which
many never occur: its energy grew in .98 to 1 of them where it is a matrix of its own, and in .89 to
1 where it is the table too. Of classifiers of images nothing of it is true.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lineage.artifacts.dialects import canonical_name
from lineage.evidence.spectra import leads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Square = NDArray[np.float64]

__all__ = ["Head", "Heads", "heads"]

_HEAD = re.compile(r"(?:output|(?:.*\.)?(?:decoder|lm_head))\.weight")
_TABLE = re.compile(r"(?:.*\.)?(?:token_embd|embeddings?)\.weight")
"""What such a matrix, and a table of tokens, are called; of several the shortest name is taken."""


class Head(NamedTuple):
    """A matrix that may predict tokens.

    Attributes:
        name: Of the tensor.
        energy: float64, shape (models,): squared norms.
        cores: float32, shape (models, rows, columns).
        squared: float64, shape (models, models): of the differences; 0 where the values are equal.
    """

    name: str
    energy: NDArray[np.float64]
    cores: NDArray[np.float32]
    squared: Square


class Heads(NamedTuple):
    """[w, c] is of the step from w to c, [c, w] that with the other sign; shape (models, models).

    Attributes:
        head: Mean cosine of the step of the matrix that predicts tokens with it before and after.
        head_lead: How the step leads; see `spectra`.
        table: The same cosine of the table of tokens, where there is no such matrix.
        table_lead: The same lead of it.
    """

    head: Square
    head_lead: Square
    table: Square
    table_lead: Square


def heads(matrices: Sequence[Head], models: int) -> Heads:
    """Hold the steps of what predicts tokens against it; all is 0 where nothing is known to.

    Args:
        matrices: Of all models.
        models: How many there are.
    """
    named = {canonical_name(one.name): one for one in matrices}
    own = _called(_HEAD, named)
    table = _called(_TABLE, named) if own is None else None
    none = np.zeros((models, models))
    return Heads(*_grown(own, none), *_grown(table, none))


def _called(names: re.Pattern[str], named: Mapping[str, Head]) -> Head | None:
    found = min(filter(names.fullmatch, named), key=lambda name: (len(name), name), default="")
    return named.get(found)


def _grown(one: Head | None, none: Square) -> tuple[Square, Square]:
    if one is None:
        return none, none
    moved = one.squared > 0
    middle = np.sqrt(np.where(moved, one.squared, 1) * (one.energy[:, None] + one.energy) / 2)
    gain = one.energy - one.energy[:, None]
    cosine = np.divide(gain, 2 * middle, out=np.zeros_like(none), where=moved & (middle > 0))
    return cosine.clip(-1, 1), np.where(moved, leads(one.cores), 0)
