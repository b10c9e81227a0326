"""In which order a network computes its layers, told from their names and shapes.

Names are sorted as people count, stems first and heads last. Within a block, where names say less,
that order is taken in which each layer reads as many channels as the one in front of it writes.
"""

from __future__ import annotations

import re
from itertools import groupby, pairwise, permutations
from math import prod
from typing import TYPE_CHECKING

from lineage.alignment.hourglass import hourglass
from lineage.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from lineage.alignment.layers import Leaf

    Leaves = dict[str, Leaf]
    Shape = tuple[int, ...]

__all__ = [
    "SHORTCUT",
    "block_of",
    "is_head",
    "kind_of",
    "natural",
    "ordered",
    "siblings",
    "with_gates",
]

SHORTCUT = re.compile(
    r"(?!(?:.*\.)?stages\.\d+\.downsample\b)"
    r"(.*?)\.?((shortcut|downsample|skip|identity|proj_conv)\b.*|proj\.\d+)"
)
"""What is around a block, and the block. A stage's own `downsample` is none; see `_BETWEEN`."""

_EMBEDDING = re.compile(r"emb|wte|token|lookup", re.IGNORECASE)
_HEAD = re.compile(r"classifier|head|decoder|output|logits|lm_head", re.IGNORECASE)
_LAST = re.compile(r"(classifier|head|logits|outc?|output|final\w*)(\.|$)", re.IGNORECASE)
_STEM = re.compile(r"^stem|embedder|conv_in|conv_stem|input", re.IGNORECASE)
_BLOCK = re.compile(r"(.*(?:^|\.)(?!conv|fc|branch|bn|norm)[\w-]*\d)\..+")
_GATE = re.compile(r"(^|\.)(se|se_\w+|squeeze\w*|attention)\.")
_SIZE = re.compile(r"\d+x\d+")

_BETWEEN = (
    (re.compile(r"downsample_layers\.(\d+)"), r"stages.\1!"),
    (re.compile(r"(stages\.\d+)\.downsample(?=\.)"), r"\1!"),
    (re.compile(r"(stages\.\d+)\.(conv_down|conv_exp)(?=\.)"), r"\1!\2"),
    (re.compile(r"transition(\d+)"), r"denseblock\1.~"),
    (re.compile(r"trans(\d+)"), r"dense\1.~"),
)
"""Layers between stages -> a name that comes before all of the stage that they lead to, or behind
all of the one that they follow."""

_RANKS = {"embedding": 0, "convolution": 2, "recurrent": 3, "linear": 4}

_MOST_LINEAR, _MOST_MIXED = 6, 5
"""Linear layers whose order is looked for by their shapes, at most; and layers of a block."""


def kind_of(stem: str, leaves: Leaves) -> str:
    """Return `convolution`, `linear`, `embedding`, `recurrent`, or `norm` for all else."""
    if "weight_ih" in leaves and "weight_hh" in leaves:
        return "recurrent"
    weight = leaves.get("weight")
    if weight is None or len(weight.shape) < 2 or "running_mean" in leaves:
        return "norm"
    if len(weight.shape) > 2 and prod(weight.shape) == weight.shape[-1] > 1:
        return "norm"
    if len(weight.shape) > 2:
        return "convolution"
    last = stem.rsplit(".", 1)[-1]
    is_embedding = "bias" not in leaves and _EMBEDDING.search(last) and not _HEAD.search(last)
    return "embedding" if is_embedding else "linear"


def natural(stem: str) -> tuple[object, ...]:
    """Return what sorts names as people count."""
    return tuple(
        (0, int(one), "") if one.isdigit() else (1, 0, one) for one in re.split(r"(\d+)", stem)
    )


def block_of(stem: str) -> str:
    """Return what a layer's block is called: up to the last number that is not the layer's own."""
    found = _BLOCK.fullmatch(stem)
    return stem.rpartition(".")[0] if found is None else found[1]


def is_head(stem: str, kind: str, shape: Shape) -> bool:
    """Whether a layer tells classes, if it is the last one."""
    return kind == "linear" or (
        kind == "convolution" and _is_point(shape) and bool(_LAST.match(stem))
    )


def _tells_classes(stem: str, kind: str, leaves: Leaves) -> bool:
    if kind == "linear":
        return bool(_HEAD.search(stem))
    return kind == "convolution" and is_head(stem, kind, leaves["weight"].shape)


def ordered(stems: Mapping[str, Leaves], name: str) -> list[tuple[str, Leaves]]:
    """Return the layers in the order in which they are computed.

    Args:
        stems: What a layer or norm is called -> its tensors.
        name: What errors call the network.

    Raises:
        ArchitectureError: If there are none.
    """
    kinds = {stem: kind_of(stem, leaves) for stem, leaves in stems.items()}
    filtered = {block_of(stem) for stem, kind in kinds.items() if kind == "convolution"}
    ranked = []
    for stem, kind in kinds.items():
        if kind == "norm":
            continue
        rank = _RANKS[kind]
        block = block_of(stem)
        if kind == "linear" and block in filtered and block[-1:].isdigit():
            rank = _RANKS["convolution"]
        elif kind == "convolution" and _STEM.search(stem):
            rank = 1
        elif _tells_classes(stem, kind, stems[stem]):
            rank = 5
        ranked.append((rank, natural(_as_computed(stem, stems)), stem))
    ranked.sort()
    if not ranked:
        raise ArchitectureError("has no layers by known names", name)
    front = [stem for rank, _, stem in ranked if rank < _RANKS["linear"]]
    back = [stem for rank, _, stem in ranked if rank >= _RANKS["linear"]]
    if 1 < len(back) <= _MOST_LINEAR:
        back = next((list(o) for o in permutations(back) if _follow(o, stems)), back)
    return [(stem, stems[stem]) for stem in (*_arranged(front, stems), *back)]


def _as_computed(stem: str, stems: Container[str]) -> str:
    """Return a name that sorts as layers are computed, if names tell that.

    What widens comes in front of filters of single channels where another narrows behind them.
    """
    if stem.endswith("conv_pw") and f"{stem}l" in stems:
        return f"{stem.removesuffix('conv_pw')}!"
    for pattern, earlier in _BETWEEN:
        stem = pattern.sub(earlier, stem)
    return stem


def _follow(order: Sequence[str], stems: Mapping[str, Leaves]) -> bool:
    shapes = [stems[stem]["weight"].shape for stem in order]
    return all(x[0] == y[1] for x, y in pairwise(shapes))


def _arranged(front: Sequence[str], stems: Mapping[str, Leaves]) -> list[str]:
    """Put the layers of each block in an order in which they feed each other.

    A single layer that only fits behind all others goes there, as one in front of the classes may
    be called like the first.
    """
    if any("weight" not in stems[stem] for stem in front):  # recurrent
        return list(front)
    shapes = {stem: stems[stem]["weight"].shape for stem in front}
    both_ways = hourglass(front, shapes)
    if both_ways is not None:
        return both_ways
    found, width, strays = _by_blocks(front, shapes, is_strict=True)
    if len(strays) == 1 and shapes[strays[0]][1] == width:
        return [*found, *strays]
    return _by_blocks(front, shapes, is_strict=False)[0]


def _by_blocks(
    front: Sequence[str], shapes: Mapping[str, Shape], *, is_strict: bool
) -> tuple[list[str], int, list[str]]:
    """Return the layers in order, how many channels the last one writes, and single strays.

    Args:
        front: The layers in the order of their names.
        shapes: Of their weights.
        is_strict: Whether a block of one layer that does not fit is left out as a stray.
    """
    found: list[str] = []
    strays: list[str] = []
    width = 0
    for _, run in groupby(front, block_of):
        block = list(run)
        main, after = _of_block(block, shapes, width)
        if is_strict and not after and len(block) == 1:
            strays += block
            continue
        found, width = [*found, *main], after
    return found, width, strays


def _of_block(block: list[str], shapes: Mapping[str, Shape], width: int) -> tuple[list[str], int]:
    """Return a block's layers in order, and how many channels it writes; 0 if that is not known."""
    around = [stem for stem in block if SHORTCUT.fullmatch(stem)]
    gates = _gates(block, shapes)
    main = [stem for stem in block if stem not in around and stem not in gates]
    if _written(main, shapes, width) is None and 1 < len(main) <= _MOST_MIXED:
        tried = [list(one) for one in permutations(main)]
        fits = [one for one in tried if _written(one, shapes, width, is_whole=True) is not None]
        fits += [one for one in tried if _written(one, shapes, width) is not None]
        main = fits[0] if fits else main
    return [*with_gates([*main, *gates], shapes), *around], _written(main, shapes, width) or 0


def _written(
    order: Iterable[str], shapes: Mapping[str, Shape], width: int, *, is_whole: bool = False
) -> int | None:
    """Return how many channels layers write one after another; None if they do not fit.

    Siblings that differ in the size of their filters alone read the same, and are put together.
    """
    last, read, written = "", 0, width
    for stem in order:
        shape = shapes[stem]
        if siblings(last, stem) and shape[1] == read:
            written += shape[0]
        elif written == 0 or shape[1] == written or (not is_whole and _in_parts(shape, written)):
            read, written = shape[1], shape[0]
        else:
            return None
        last = stem
    return written


def _in_parts(shape: Shape, width: int) -> bool:
    """Whether a convolution may be of several parts, as in `Part`."""
    return shape[0] == width and width % shape[1] == 0 and not _is_point(shape)


def _is_point(shape: Shape) -> bool:
    return prod(shape[2:]) == 1


def siblings(one: str, other: str) -> bool:
    """Whether two layers' names differ in the size of their filters alone."""
    return one != other and bool(_SIZE.search(one)) and _SIZE.sub("", one) == _SIZE.sub("", other)


def _gates(block: Sequence[str], shapes: Mapping[str, Shape]) -> list[str]:
    """Return the two layers of a block that tell from all channels' means by what each goes.

    Source: Hu et al., "Squeeze-and-Excitation Networks" (2018).
    """
    prefix = len(block_of(block[0])) if block else 0
    found = [stem for stem in block if _GATE.search(stem[prefix:])]
    found.sort(key=lambda stem: shapes[stem][0])
    if len(found) != 2 or not all(_is_point(shapes[stem]) for stem in found):
        return []
    return found if shapes[found[0]][:2] == shapes[found[1]][1::-1] else []


def with_gates(block: Sequence[str], shapes: Mapping[str, Shape]) -> list[str]:
    """Return a block's layers with its gate behind the channels that go by it.

    These are the last ones of its width, and of those before the ones that a convolution wrote
    that looks around.
    """
    gates = _gates(block, shapes)
    main = [stem for stem in block if stem not in gates]
    if not gates:
        return main
    places = [i for i, stem in enumerate(main) if shapes[stem][0] == shapes[gates[0]][1]]
    wide = [i for i in places if not _is_point(shapes[main[i]])]
    at = max(wide or places or [len(main) - 1]) + 1
    return [*main[:at], *gates, *main[at:]]
