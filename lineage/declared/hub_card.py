"""Reads a hub model card: the YAML block at the top of `README.md`.

Source: the model-card metadata of the hub: `base_model` is one id or a list of direct parents,
`base_model_relation` one of adapter, merge, quantized, finetune, for all of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from lineage.declared.base import Declaration
from lineage.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

_FRONT_MATTER = re.compile(rb"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MAX_BYTES = 1 << 20


def read_card(card: Path) -> tuple[Declaration, ...]:
    """Return the parents that a card names.

    Raises:
        FormatError: If its YAML cannot be read, or `base_model` is neither text nor a list of text.
    """
    with card.open("rb") as file:
        match = _FRONT_MATTER.match(file.read(_MAX_BYTES))
    if match is None:
        return ()
    try:
        metadata: Any = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise FormatError(f"the card's YAML cannot be read: {reason}", file=card) from error
    if not isinstance(metadata, dict):
        return ()
    named = metadata.get("base_model")
    names = [named] if isinstance(named, str) else named or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError("base_model is neither a name nor a list of names", file=card)
    relation = metadata.get("base_model_relation")
    said = relation if isinstance(relation, str) else None
    where = f"{card.name}: base_model"
    return tuple(Declaration(name, said, where) for name in names)
