"""From an adapter's files to the changes it makes: `adapter_of` reads what there are tables for.

Every family of adapters is a file here that lists what its tensors' names end in (`ROLES`) and says
what a module's tensors change (`changes`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage.adapters.base import Adapter, Unread
    from lineage.artifacts import Artifact

__all__ = ["FAMILIES", "adapter_of", "is_adapter"]

FAMILIES = ("lora", "loha", "lokr", "ia3", "vera", "full")
"""A module of this folder each."""

_WORDS = ("lora", ".hada_w", ".lokr_w", ".ia3_l", ".on_input", "vera_lambda_", ".diff")
_HINT = (
    r"\.lora_[AB]\b|\.weight\.lora_[ab]$|lora_(?:down|up)\.|lora[12]?\.(?:down|up)\.|lora_linear_layer\.|lora_embedding_"
    r"|\.hada_w|\.lokr_w|\.ia3_l|\.on_input$|vera_lambda_|\.diff(?:_b)?$"
)
"""What such names hold; each has one of `_WORDS`, which are looked for much faster."""


def is_adapter(names: Iterable[str]) -> bool:
    """Whether tensors of these names may be an adapter's; quick, and never surely."""
    text = "\n".join(names)
    if not any(word in text for word in _WORDS):
        return False
    return re.search(_HINT, text, re.MULTILINE) is not None


def adapter_of(
    artifact: Artifact, source: str | PathLike[str] | Any = None, base: Any = None
) -> Adapter | Unread | None:
    """Read an open artifact as an adapter.

    Args:
        artifact: Its tensors; it must stay open while changes are loaded.
        source: Where it was read from: configurations lie beside weights.
        base: What it was trained on, where that is known; see `lineage.adapters.projections`.

    Returns:
        None where it is none, or one among the tensors of a whole model; `Unread` where its change
        cannot be told from what is there.

    Raises:
        FormatError: If it is one and its parts do not go together, naming file, tensor and reason.
    """
    if not is_adapter(item.name for item in artifact.items):
        return None
    from lineage.adapters.grouping import grouped

    return grouped(artifact, source, base)
