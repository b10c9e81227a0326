"""The matrix as tables: what is made of which model, and what is done to it afterwards.

A row starts from `child` (a fine-tune of `base`), has steps that are done one after another, and
one follow-up. A step is a disguise, a reshape or a key of `matrix.STEPS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FOLLOW_UPS = ("none", "tuned", "lora", "int8", "int4", "pruned", "bf16")
"""What follows a disguise: nothing, a full fine-tune, a merged LoRA, 8 bits a row, 4 bits in groups
of 32, the smallest 30 % of weights set to zero, and rounding to bfloat16."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model of the matrix.

    Attributes:
        kind: `disguise`, `shape`, `limit`, `partial` or `stranger`.
        steps: What is done, in order.
        follow_up: Key of `FOLLOW_UPS`.
        of: The model it is made of: `child`, or the name of one in the zoo.
    """

    kind: str
    steps: tuple[str, ...]
    follow_up: str = "none"
    of: str = "child"

    @property
    def name(self) -> str:
        """Return what its folder is called."""
        start = () if self.of == "child" else (self.of,)
        end = () if self.follow_up == "none" else (self.follow_up,)
        return "+".join((*start, *self.steps, *end)) or "plain"


def disguised(worn: Sequence[tuple[str, ...]], alone: Sequence[str]) -> list[Row]:
    """Return every disguise with every follow-up; those of `alone` with none."""
    rows = [Row("disguise", steps, after) for steps in worn for after in FOLLOW_UPS]
    return rows + [Row("disguise", (name,)) for name in alone]


TOGETHER = (
    ("channels-permuted", "channels-rescaled"),
    ("channels-permuted", "norms-folded"),
    ("channels-rescaled", "norms-folded"),
    ("norms-folded", "channels-rescaled"),
)
"""Disguises that are also worn two at a time, in order, where there are few."""


SHAPES = (
    ("layers-dropped", ("none", "tuned", "int4")),
    ("layers-repeated", ("none", "tuned", "int4")),
    ("layers-interleaved", ("none", "tuned", "int4")),
    ("units-cut", ("none", "tuned", "int4")),
    ("heads-cut", ("none", "tuned", "int4")),
    ("tokens-grown", ("none", "tuned", "int4")),
    ("tokens-cut", ("none", "tuned", "int4")),
    ("experts-copied", ("none", "int4")),
    ("everything+experts-copied", ("none",)),
    ("experts-trained", ("none", "int4")),
    ("experts-trained+experts-cut", ("none", "int4")),
    ("experts-trained+experts-merged", ("none", "int4")),
)
"""Another shape -> what follows; full training heals it."""

BOTH = ("layers-dropped", "layers-repeated", "layers-interleaved", "units-cut", "tokens-cut")
"""Other shapes that are also worn under every disguise at once."""

PARTIAL = ("embeddings-copied", "blocks-copied")
"""A stranger that got something of the child's."""

LIMITS = (
    ("rows-redrawn", "none"),
    ("rows-redrawn+everything", "none"),
    ("noise-3", "none"),
    ("noise-10", "none"),
    ("noise-30", "none"),
    ("noise-100", "none"),
    ("everything+noise-3", "none"),
    ("everything+noise-10", "none"),
    ("everything+noise-30", "none"),
    ("everything+noise-100", "none"),
    ("units-split", "none"),
    ("units-split", "tuned"),
    ("units-split+everything", "none"),
    ("continued", "none"),
    ("everything+continued", "none"),
    ("width-cut", "tuned"),
    ("everything+width-cut", "tuned"),
    ("everything+width-cut", "none"),
)
"""What may break any search for a source; `noise-10` is a tenth of each tensor's spread."""
