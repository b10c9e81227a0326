"""Holds a family's truth against its weights, by other means than those that made them.

Merges are solved for their coefficients, adapters for their rank, quantized copies are searched for
levels, strangers for a cosine. A family with something wrong is reported and the run fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from architectures import ARCHITECTURES
from layout import Architecture, Weights
from making import STATISTICS, Places
from recipes import Family
from safetensors.torch import load_file

_STRANGERS_AT_MOST = 0.08
_SAME_START_AT_LEAST = 0.1
_EXACT = 1e-5
_SAME_VALUE = 1e-9

Entry = Mapping[str, Any]
Case = tuple[Architecture, Entry, Weights, Sequence[Weights]]


def check(family: Family, document: Mapping[str, Any], places: Places) -> list[str]:
    """Return what is wrong with a family; nothing if all is well."""
    models = {entry["id"]: entry for entry in document["models"]}
    wrong = list(_folder(document, places))
    if wrong:
        return wrong
    loaded = {number: _load(entry, places) for number, entry in models.items()}
    arch = ARCHITECTURES[family.architecture]
    for entry in models.values():
        given = [loaded[parent] for parent in entry["parents"]]
        case = (arch, entry, loaded[entry["id"]], given)
        problems = (*_always(case), *_CHECKS.get(entry["made"]["by"], _nothing)(case))
        wrong += [f"{entry['name']} ({entry['id']}): {problem}" for problem in problems]
    wrong += _strangers(document, loaded, arch)
    return wrong


def _folder(document: Mapping[str, Any], places: Places) -> Iterator[str]:
    """Only what is published is there, and nothing beside the weights."""
    shown = {entry["path"] for entry in document["models"] if not entry["hidden"]}
    found = {path.name for path in places.models.iterdir()}
    if found - shown:
        yield f"in the folder but not published: {sorted(found - shown)}"
    if shown - found:
        yield f"published but not in the folder: {sorted(shown - found)}"
    for path in places.models.rglob("*"):
        if path.is_file() and not re.search(r"\.safetensors(\.index\.json)?$", path.name):
            yield f"a file besides the weights: {path}"


def _load(entry: Entry, places: Places) -> Weights:
    if entry["hidden"]:
        return load_file(places.kept / f"{entry['name']}.safetensors")
    path: Path = places.models / entry["path"]
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _nothing(_case: Case) -> Iterator[str]:
    yield from ()


def _always(case: Case) -> Iterator[str]:
    _, entry, child, parents = case
    if any(not bool(t.isfinite().all()) for t in child.values() if t.is_floating_point()):
        yield "a weight is not finite"
    if entry["parents"] and entry["relation"] != "identical":
        for parent in parents:
            if child.keys() == parent.keys() and all(_same(child[n], parent[n]) for n in child):
                yield "is its parent"


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.double(), b.double())


def _learned(case: Case) -> Iterator[str]:
    made = case[1]["made"]
    first, last = made["loss_first_tenth"], made["loss_last_tenth"]
    if made["until"] == 1.0 and last > 0.8 * first:
        yield f"has not learned: a loss of {first}, then {last}"


def _tuned(case: Case) -> Iterator[str]:
    arch, entry, child, (parent,) = case
    if entry["how"] == "partial":
        moved = {n for n in child if not (_same(child[n], parent[n]) or n.endswith(STATISTICS))}
        layers = {arch.layer_of(n) for n in moved if arch.layer_of(n) is not None}
        if not moved or len(layers) > entry["made"]["last_layers"]:
            yield f"layers {sorted(filter(None, layers))} moved"
    if entry["made"].get("before") is None and child.keys() != parent.keys():
        yield "has other tensors than its parent"


def _healed(case: Case) -> Iterator[str]:
    """Zeros of a pruned parent stay, where they were kept."""
    arch, entry, child, (parent,) = case
    if entry["made"].get("zeros_kept"):
        for name in filter(arch.is_matrix, parent):
            if bool((child[name][parent[name] == 0] != 0).any()):
                yield f"{name}: a pruned weight came back"


def _adapted(case: Case) -> Iterator[str]:
    """In half precision the rank is lost in the rounding; a direction may hardly have been used."""
    _, entry, child, (parent,) = case
    if entry["rank"] is None or next(iter(child.values())).dtype != torch.float32:
        return
    seen = set()
    for name in child:
        if child[name].ndim < 2 or _same(child[name], parent[name]):
            continue
        delta = (child[name].double() - parent[name].double()).flatten(1)
        values = torch.linalg.svdvals(delta)
        seen.add(int((values > 1e-3 * values[0]).sum()))
    if max(seen, default=0) != entry["rank"]:
        yield f"ranks {sorted(seen)} for {entry['rank']}"


def _mixed(case: Case) -> Iterator[str]:
    """Solve for the coefficients, all weights together; half precision would bias them."""
    _, entry, child, parents = case
    names = [n for n, t in child.items() if t.is_floating_point()]
    wanted = torch.tensor(list(entry["coefficients"].values()), dtype=torch.float64)
    is_arc = entry["how"] == "slerp"
    if child[names[0]].dtype != torch.float32 and not is_arc:
        yield from _rounded(child, parents, names, wanted)
        return
    gram = sum(
        (flat @ flat.T for flat in (_rows(n, (*parents, child)) for n in names)),
        torch.zeros(len(parents) + 1, len(parents) + 1, dtype=torch.float64),
    )
    solved = torch.linalg.lstsq(gram[:-1, :-1], gram[:-1, -1:]).solution[:, 0]
    if float((solved - wanted).abs().max()) > (0.06 if is_arc else 1e-3):
        yield f"coefficients {solved.tolist()} for {wanted.tolist()}"
    rest = (child[n].double().flatten() - solved @ _rows(n, parents) for n in names)
    left = (sum(float(r.square().sum()) for r in rest) / float(gram[-1, -1])) ** 0.5
    if left > (0.05 if is_arc else _EXACT):
        yield f"is no mixture of its parents: {left:.2g} is left"


def _rounded(
    child: Weights, parents: Sequence[Weights], names: Sequence[str], wanted: torch.Tensor
) -> Iterator[str]:
    """Every weight is the mixture's to half a step of its precision."""
    for name in names:
        rows = _rows(name, parents)
        mixture = wanted @ rows
        most = 0.505 * torch.finfo(child[name].dtype).eps * mixture.abs()
        most += 1e-6 * rows.abs().max()  # of the sum in fp32
        far = ((child[name].double().flatten() - mixture).abs() > most).double().mean()
        if float(far):
            yield f"{name}: {float(far):.2g} of it is not the mixture, rounded"


def _rows(name: str, models: Sequence[Weights]) -> torch.Tensor:
    return torch.stack([model[name].double().flatten() for model in models])


def _between(case: Case) -> Iterator[str]:
    """TIES and DARE move no weight that none of the parents moved."""
    _, _, child, (base, *others) = case
    for name, tensor in base.items():
        still = torch.stack([o[name].double() == tensor.double() for o in others]).all(0)
        far = (child[name].double() - tensor.double())[still].abs()
        if far.numel() and float(far.max()) > 1e-6:
            yield f"{name}: moved where no parent did"


def _stacked(case: Case) -> Iterator[str]:
    arch, entry, child, parents = case
    order = [(w, at) for w, low, high in entry["made"]["slices"] for at in range(low, high)]
    for name, tensor in child.items():
        layer = arch.layer_of(name)
        if layer is None:
            if not _same(tensor, parents[0][name]):
                yield f"{name}: not the first parent's"
            continue
        which, old = order[layer]
        source = next(n for n in parents[which] if _renumbered(arch, n, layer, old) == name)
        if not _same(tensor, parents[which][source]):
            yield f"{name}: not layer {old} of parent {which}"


def _renumbered(arch: Architecture, name: str, new: int, old: int) -> str | None:
    found = re.match(arch.layer, name)
    if found is None or int(found[1]) != old:
        return None
    return f"{name[: found.start(1)]}{new}{name[found.end(1) :]}"


def _cast(case: Case) -> Iterator[str]:
    """What NumPy's types make of the parent is the child."""
    _, entry, child, (parent,) = case
    dtype = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}[entry["made"]["to"]]
    for name, tensor in child.items():
        if not tensor.is_floating_point():
            continue
        rounded = parent[name].float().numpy().astype(dtype).astype(np.float32)
        if tensor.element_size() != 2 or not np.array_equal(rounded, tensor.float().numpy()):
            yield f"{name}: not the parent's, rounded"


def _near(a: torch.Tensor, b: torch.Tensor, share: float) -> bool:
    wide = b.double()
    return float((a.double() - wide).norm()) <= share * float(wide.norm()) + _SAME_VALUE


_LEVELS = {
    "int8-rows": (255, None),
    "int4-groups-of-32": (16, 32),
    "int4-symmetric-groups-of-64": (16, 64),
    "gguf-q8_0": (255, 32),
    "gguf-q4_0": (16, 32),
    "fp8-cast": (256, None),
    "fp8-scaled": (256, None),
}


def _levels(case: Case) -> Iterator[str]:
    """A row or group holds few values, and the parent is near."""
    arch, entry, child, (parent,) = case
    most, size = _LEVELS[entry["made"]["scheme"]]
    for name in filter(arch.is_matrix, child):
        flat = child[name].float().flatten(1)
        width = flat.shape[1] - flat.shape[1] % (size or flat.shape[1])
        for piece in flat[:8, :width].reshape(-1, size or flat.shape[1])[:32]:
            if len(piece.unique()) > most:
                yield f"{name}: more than {most} values"
                break
        if not _near(child[name], parent[name], 0.2):
            yield f"{name}: too far from the parent"


def _sparse(case: Case) -> Iterator[str]:
    arch, entry, child, (parent,) = case
    for name, tensor in child.items():
        if not arch.is_matrix(name):
            if not _same(tensor, parent[name]):
                yield f"{name}: changed"
            continue
        left = tensor != 0
        if not torch.equal(tensor[left], parent[name][left]):
            yield f"{name}: a weight that was kept has changed"
        row = tensor[0].numel() if entry["made"]["per_row"] else tensor.numel()
        wanted = int(entry["made"]["share"] * row) / row
        if abs(float((~left).float().mean()) - wanted) > 0.01:
            yield f"{name}: {float((~left).float().mean()):.2f} is zero"


def _subset(case: Case) -> Iterator[str]:
    """Every tensor is one of the parent's, under whatever number."""
    _, _, child, (parent,) = case
    held = {t.numpy().tobytes() for t in _plain(parent)}
    for name, tensor in zip(child, _plain(child), strict=True):
        if tensor.numpy().tobytes() not in held:
            yield f"{name}: not a tensor of the parent"


def _plain(weights: Weights) -> Iterator[torch.Tensor]:
    for tensor in weights.values():
        yield tensor.view(torch.uint8) if tensor.dtype == torch.bfloat16 else tensor


def _narrow(case: Case) -> Iterator[str]:
    """Every row (column) of the child is one of the parent's."""
    _, _, child, (parent,) = case
    if all(child[name].shape == parent[name].shape for name in child):
        yield "is as wide as its parent"
    for name, tensor in child.items():
        if tensor.shape == parent[name].shape:
            if not _same(tensor, parent[name]):
                yield f"{name}: changed"
            continue
        axis = next(at for at, n in enumerate(tensor.shape) if n != parent[name].shape[at])
        held = {row.double().numpy().tobytes() for row in parent[name].movedim(axis, 0)}
        if any(row.double().numpy().tobytes() not in held for row in tensor.movedim(axis, 0)):
            yield f"{name}: a neuron that the parent has not"


def _grown(case: Case) -> Iterator[str]:
    _, entry, child, (parent,) = case
    for name, tensor in child.items():
        rows = len(parent[name]) if parent[name].ndim else 0
        if not _same(tensor[:rows] if rows else tensor, parent[name]):
            yield f"{name}: old rows changed"
        if tensor.shape != parent[name].shape and len(tensor) != rows + entry["made"]["count"]:
            yield f"{name}: {len(tensor)} rows"


def _noisy(case: Case) -> Iterator[str]:
    """The change is as large as was asked for; half precision swallows or adds a little."""
    _, entry, child, (parent,) = case
    share = entry["made"]["share"]
    for name, tensor in parent.items():
        if tensor.is_floating_point() and tensor.ndim > 1 and tensor.numel() > 500:
            moved = float((child[name].double() - tensor.double()).std() / tensor.double().std())
            slack = 0.2 * share if tensor.dtype == torch.float32 else 0.2 * share + 0.003
            if abs(moved - share) > slack:
                yield f"{name}: noise of {moved:.2g}"


def _experts(case: Case) -> Iterator[str]:
    _, _, child, (parent,) = case
    held = {t.numpy().tobytes() for t in _plain(parent)}
    for name, tensor in zip(child, _plain(child), strict=True):
        if "block_sparse_moe.gate" not in name and tensor.numpy().tobytes() not in held:
            yield f"{name}: not a tensor of the parent"


_CHECKS: dict[str, Callable[[Case], Iterator[str]]] = {
    "begin": _learned,
    "tune": lambda case: iter((*_tuned(case), *_healed(case))),
    "adapt": _adapted,
    "linear": _mixed,
    "slerp": _mixed,
    "task_arithmetic": _mixed,
    "ties": _between,
    "dare": _between,
    "passthrough": _stacked,
    "cast": _cast,
    "quantized": _levels,
    "pruned": _sparse,
    "dropped": _subset,
    "repeated": _subset,
    "renamed": _subset,
    "copied": _subset,
    "narrowed": _narrow,
    "more_tokens": _grown,
    "experts": _experts,
    "noised": _noisy,
}


def _strangers(
    document: Mapping[str, Any], loaded: Mapping[str, Weights], arch: Architecture
) -> Iterator[str]:
    """Roots look unrelated unless they began with the same weights."""
    names = {entry["id"]: entry["name"] for entry in document["models"]}
    starts = [set(group) for group in document["groups"]["shared_init"]]
    for a, b in combinations(document["groups"]["strangers"], 2):
        seen = _cosine(loaded[a], loaded[b], arch)
        began = any({a, b} <= group for group in starts)
        if began and seen < _SAME_START_AT_LEAST:
            yield f"{names[a]}, {names[b]}: same start, but a cosine of {seen:.3f}"
        if not began and abs(seen) > _STRANGERS_AT_MOST:
            yield f"{names[a]}, {names[b]}: strangers with a cosine of {seen:.3f}"


def _cosine(a: Weights, b: Weights, arch: Architecture) -> float:
    """Return the cosine over the large matrices."""
    names = [n for n in a if arch.is_matrix(n) and n in b and a[n].shape == b[n].shape]
    one = torch.cat([a[n].double().flatten() for n in names])
    two = torch.cat([b[n].double().flatten() for n in names])
    return float(one @ two / (one.norm() * two.norm()))
