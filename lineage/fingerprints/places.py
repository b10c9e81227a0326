"""Where a model's tensors lie by their roles: names read together, not each alone.

What one name leaves open the others say. A word that no table knows stands in front of a model's
layers, so it is the model's own name and is taken off; the only embedding of a model has a name of
its maker's; a second attention in a layer reads another stream.

| tensor | role |
|---|---|
| `MODEL.encoder.layer.3.x`, `MODEL` unknown, and nothing else is called so | as `encoder.layer.3.x` |
| with `emb`, `wte`, `lookup` or `src` in its name outside of the layers, as wide as the stream | `token_embd`, with `pos` in it `position_embd`, where no tensor has that role |
| `N.encoder_attn.x`, `N.layer.1.EncDecAttention.x`, `N.multihead_attn.x`, `N.crossattention.x` | `cross.N.`, as of the layer's own attention: a block of its own, whose keys and values read what the encoder gave |
| `N.mlp.experts.3.x`, `N.mlp.shared_expert.x` | `N.expert.3.`, `N.expert.shared.` |
| `N.mlp.gate.x`, `N.block_sparse_moe.gate.x`, `N.mlp.router.x` | `N.ffn_gate_inp`, a row for each expert |
| one tensor of three axes for all experts, `N.mlp.experts.gate_up_proj` | the same of each |
"""  # noqa: E501 - a table

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from lineage.artifacts.dialects import canonical_name, is_known_word, layered, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lineage.artifacts import Item

__all__ = ["CROSS", "Place", "named", "of_one_width", "places_of"]

CROSS = "cross"
"""Stack of a layer's second attention."""

_EXPERT_ROLES = {
    "w1": "ffn_gate", "gate_proj": "ffn_gate", "w3": "ffn_up", "up_proj": "ffn_up",
    "w2": "ffn_down", "down_proj": "ffn_down",
}  # fmt: skip
_EXPERT = re.compile(r"(?:block_sparse_moe|mlp|feed_forward)\.experts\.(\d+)\.(\w+)")
_SHARED = re.compile(r"(?:block_sparse_moe|mlp|feed_forward)\.shared_experts?\.(\w+)")
_STACKED = re.compile(
    r"(?:block_sparse_moe|mlp|feed_forward)\.experts\.(gate_up_proj|down_proj)(_bias)?"
)

_ROUTER = re.compile(
    r"(?:block_sparse_moe|mlp|feed_forward)\.(?:gate|router)\.(weight|bias|e_score_correction_bias)"
)
_SHARED_GATE = re.compile(r"mlp\.shared_expert_gate\.weight")

_SECOND = re.compile(
    r"(?<=\.)(\d+)\.(?:layer\.\d+\.)?"
    r"(?:EncDecAttention|encoder_attn|multihead_attn|cross_?attention|cross_attn|encoder_attention)"
    r"(?=[._])"
)
"""A layer's second attention."""

_EMBEDDINGS = {
    "position_embd": re.compile(r"pos", re.IGNORECASE),
    "token_embd": re.compile(r"emb|wte|lookup|^src|^tgt", re.IGNORECASE),
}
_NO_EMBEDDING = re.compile(r"_embd\.|norm|type|proj|head|patch", re.IGNORECASE)
_OF_A_DECODER = re.compile(r"dec|tgt|target", re.IGNORECASE)

_MOST_WORDS = 3
"""Unknown words that may stand in front of layers."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the numbers of one role lie: a tensor, or some of its rows or columns.

    Attributes:
        item: The tensor.
        axis: Along which the part is cut out; None for the whole.
        start: First row or column of the part.
        stop: The one after the last.
        is_turned: Whether its rows are what is read and its columns what is written, as in GPT-2.
        layer: Of a tensor that stacks matrices along its first axis, or vectors, which of these;
            None for one that does not.
    """

    item: Item
    axis: int | None = None
    start: int = 0
    stop: int = 0
    is_turned: bool = False
    layer: int | None = None

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape of what `axis` is of."""
        return self.item.shape if self.layer is None else self.item.shape[1:]

    @property
    def size(self) -> int:
        """How many values lie there."""
        if self.axis is None:
            return prod(self.whole)
        return prod(self.whole) // self.whole[self.axis] * (self.stop - self.start)


def places_of(items: Iterable[Item]) -> dict[str, Place]:
    """Find the tensors by what they are, whole or as parts of others.

    Args:
        items: All tensors of a model.
    """
    every = list(items)
    names = _without_own_words([item.name for item in every])
    found: dict[str, Place] = {}
    for item, name in zip(every, names, strict=True):
        for role, place in _roles(item, name):
            found.setdefault(role, place)
    return _of_one_tower(found)


def of_one_width(places: dict[str, Place]) -> dict[str, Place]:
    """Return the tensors of the largest half of a model, where halves have streams of two widths.

    The others are left as they are.

    Args:
        places: By role.
    """
    widths: dict[str, Counter[int]] = defaultdict(Counter)
    values: Counter[str] = Counter()
    for role, place in places.items():
        one = layered(role)
        if one is None or one.stack.rpartition(".")[2] != "blk":
            continue
        tower = one.stack.rpartition(".")[0]
        values[tower] += place.size
        if "norm" in one.role and len(place.item.shape) == 1:
            widths[tower][place.item.shape[0]] += 1
    common = {tower: counts.most_common(1)[0][0] for tower, counts in widths.items()}
    by_width: Counter[int] = Counter()
    for tower, width in common.items():
        by_width[width] += values[tower]
    if len(by_width) <= 1:
        return places
    width = by_width.most_common(1)[0][0]
    kept = [tower for tower in common if common[tower] == width]
    if len(kept) == 1 and kept[0]:
        own = f"{kept[0]}."
        return {role.removeprefix(own): p for role, p in places.items() if role.startswith(own)}
    others = tuple(f"{tower}." for tower in common if tower and tower not in kept)
    return {role: place for role, place in places.items() if not role.startswith(others)}


def named(places: dict[str, Place], width: int) -> dict[str, Place]:
    """Return the same with embeddings by what their names have in them, if nothing else is one.

    Args:
        places: By role.
        width: Of the stream.
    """
    found = dict(places)
    for role, pattern in _EMBEDDINGS.items():
        if f"{role}.weight" in found:
            continue
        fit = [
            one
            for one, place in found.items()
            if layered(one) is None
            and pattern.search(one)
            and not _NO_EMBEDDING.search(one)
            and 2 <= len(place.item.shape) <= 3
            and place.axis is None
            and place.item.shape[-1] == width
            and prod(place.item.shape[:-2]) == 1
        ]
        if len(fit) > 1:  # the decoder's has labels of its own
            fit = [one for one in fit if not _OF_A_DECODER.search(one)]
        if len(fit) == 1:
            found[f"{role}.weight"] = found.pop(fit[0])
    return found


def _of_one_tower(places: dict[str, Place]) -> dict[str, Place]:
    """Take off what half of a model names are of, where it has no other half."""
    stacks = {one.stack for role in places if (one := layered(role)) is not None}
    towers = {stack.rpartition(".")[0] for stack in stacks if stack.endswith("blk")}
    if len(towers) != 1 or "" in towers:
        return places
    tower = f"{towers.pop()}."
    rests = {role: role.removeprefix(tower) for role in places}
    return {rests[role]: p for role, p in places.items()} if _are_apart(rests) else places


def _are_apart(names: dict[str, str]) -> bool:
    return len(set(names.values())) == len(names)


def _roles(item: Item, name: str) -> Iterator[tuple[str, Place]]:
    """Yield what a tensor is, or what its parts are."""
    second = _SECOND.search(name)
    if second is not None:  # read as a layer's only attention, and put into a stack of its own
        rest = name[second.end() :]
        word = "self_attn" if rest.startswith("_") else "attention"
        name = f"{name[: second.start()]}{second[1]}.{word}{rest}"
    parts = parts_of(name, item.shape)
    roles = [(p.name, Place(item, p.axis, p.start, p.stop)) for p in parts]
    for role, place in roles or _stacked(item, name) or [(_role(name), Place(item))]:
        one = layered(role) if second is not None else None
        if one is None:
            yield role, place
        else:
            stack = one.stack.removesuffix("blk") + CROSS
            yield f"{stack}.{one.number}.{one.role}", place


def _role(name: str) -> str:
    role = canonical_name(name)
    one = layered(role)
    if one is None:
        return role
    router = _ROUTER.fullmatch(one.role)
    if router is not None:
        leaf = "weight" if router[1] == "weight" else "bias"
        return f"{one.stack}.{one.number}.ffn_gate_inp.{leaf}"
    if _SHARED_GATE.fullmatch(one.role):
        return f"{one.stack}.{one.number}.ffn_gate_inp_shexp.weight"
    for pattern in (_EXPERT, _SHARED):
        expert = pattern.match(one.role)
        if expert is not None and expert[expert.re.groups] in _EXPERT_ROLES:
            label = expert[1] if expert.re.groups > 1 else "shared"
            last = _EXPERT_ROLES[expert[expert.re.groups]]
            return f"{one.stack}.{one.number}.expert.{label}.{last}.{one.role.rpartition('.')[2]}"
    return role


def _stacked(item: Item, name: str) -> list[tuple[str, Place]]:
    """Return the matrices of all experts that one tensor holds; none where it does not.

    They are stored as inputs by outputs or the other way round, which their shapes say where the
    stream's width is known; gates come first. Where biases stand beside them, gates and units
    alternate, so that no half is the gate: these are left as they are.
    """
    one = layered(name)
    match = None if one is None else _STACKED.fullmatch(one.role.removesuffix(".weight"))
    if one is None or match is None or len(item.shape) != 3 or match[2]:
        return []
    roles = ("ffn_up",) if match[1] == "gate_up_proj" else ("ffn_down",)
    stem = f"{one.stack}.{one.number}.expert"
    return [
        (f"{stem}.{e}.{role}.weight", Place(item, layer=e))
        for e in range(item.shape[0])
        for role in roles
    ]


def _without_own_words(names: list[str]) -> list[str]:
    """Take words off that no table knows and that stand in front of numbered layers.

    A word is left where what remains of a name is another tensor's as well: then it says which of
    two halves of the model that is.
    """
    for _ in range(_MOST_WORDS):
        by_word = defaultdict(list)
        for place, name in enumerate(names):
            word, _, rest = name.partition(".")
            if rest and not is_known_word(word) and not word.isdigit():
                by_word[word].append((place, rest))
        taken = {canonical_name(name) for name in names}
        found = False
        for places in by_word.values():
            rests = [canonical_name(rest) for _, rest in places]
            in_layers = [_is_of_a_stack(rest) for rest in rests]
            if not any(in_layers) or taken & set(rests):
                continue
            for place, rest in places:
                names[place] = rest
            taken |= set(rests)
            found = True
        if not found:
            break
    return names


def _is_of_a_stack(role: str) -> bool:
    one = layered(role)
    return one is not None and one.stack.rpartition(".")[2] == "blk"
