"""Sorts an adapter's tensors by module and asks each module's family what it changes."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from math import prod
from os import PathLike
from typing import TYPE_CHECKING, Any

from lineage.adapters import FAMILIES, llama_cpp
from lineage.adapters.base import Adapter, Change, Group, Unread
from lineage.adapters.names import slug
from lineage.adapters.settings import SAYS, Settings, beside, layers_of
from lineage.adapters.tensors import Stored
from lineage.adapters.vectors import tensor as whole
from lineage.artifacts.dialects import canonical_name, layered
from lineage.artifacts.opened import OpenFile
from lineage.artifacts.safetensors import read_header
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lineage.artifacts import Artifact

CONFIG = "adapter_config.json"

_MODULES = {family: import_module(f"lineage.adapters.{family}") for family in FAMILIES}
_ENDINGS = [
    (re.compile(f"(?P<module>.*){ending}", re.DOTALL), family, role)
    for family, module in _MODULES.items()
    for ending, role in module.ROLES.items()
] + [(re.compile(r"(?P<module>.*)\.alpha", re.DOTALL), "", "alpha")]
_WRAPPERS = ("base_model.model.", "base_model.")

_PEFT_TYPES = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr", "IA3": "ia3", "VERA": "vera"}
"""What a configuration calls a family. Adapters of other types have no weights of which a change
follows, or need the base's for it."""

_FORMED = ("loha", "lokr")
"""Families whose products are gone through entry by entry."""

MOST_FORMED = 1 << 37
"""Entries of them in one adapter: twice what the largest dense models have, some minutes' work.
Small factors can ask for any number."""

_EMBEDDINGS = {"token_embd", "output"}
"""Modules that peft saves whole, without being told to, where their vocabulary has grown."""

_SAVED = re.compile(r"\.(?:modules_to_save|original_module)\.\w+(?=\.)|\.base_layer(?=\.\w+$)")


def grouped(
    artifact: Artifact, source: str | PathLike[str] | Any, base: Any = None
) -> Adapter | Unread | None:
    """Return the adapter that an artifact is; see `adapter_of`."""
    file, header = artifact.path, llama_cpp.header_of(artifact)
    if header is None:
        config, where = beside(source, CONFIG)
        metadata = _metadata(artifact)
    elif header.get("general.type", "adapter") != "adapter":
        return None
    else:
        config, where = llama_cpp.config_of(header, artifact), file
        metadata = {key: value for key, value in header.items() if isinstance(value, str)}
    settings = Settings.read(config, metadata, file=file, where=where)
    kind = None if config is None else config.get("peft_type")
    if kind is not None and kind not in _PEFT_TYPES:
        reason = f"what an adapter of the type {printable(kind, 40)} changes is not in its file"
        return Unread(reason)
    groups, families, others = _sorted(artifact)
    if not families or (config is None and 2 * len(others) > len(artifact.items)):
        return None
    if kind is not None and _PEFT_TYPES[kind] not in families:
        reason = (
            f"{where} says {kind}, but the tensors are those of {' and '.join(sorted(families))}"
        )
        raise FormatError(reason, file=file)
    if (key := settings.unread) is not None:
        return Unread(f"what an adapter with {key} changes is not told by its factors alone")
    if header is not None:
        back = llama_cpp.put_back(groups, header, base)
        if isinstance(back, Unread):
            return back
        groups = back
    if "vera" in families:
        from lineage.adapters.projections import projections

        shared = _shared(groups) or projections(groups, config, base, where=where)
        if isinstance(shared, Unread):
            return shared
        for module, group in groups.items():
            groups[module] = replace(group, tensors={**group.tensors, **shared})
    changes, used = _changes(groups, families, settings)
    for stored in others:
        changes += _saved(stored, settings, is_peft=config is not None)
    layers = None if config is None else layers_of(config, where=where)
    changes = [_on_base(change, layers, where) for change in changes]
    _check_distinct(changes, file)
    return Adapter("+".join(f for f in FAMILIES if f in used), tuple(changes),
                   _says(config, metadata))  # fmt: skip


def _changes(
    groups: Mapping[str, Group], families: Iterable[str], settings: Settings
) -> tuple[list[Change], set[str]]:
    """Ask each module's families what it changes; return that, and the families that had any.

    Raises:
        FormatError: If a module has no whole set of factors, or all products have too many values.
    """
    changes: list[Change] = []
    used: set[str] = set()
    formed = 0
    for group in groups.values():
        by_family = {f: list(_MODULES[f].changes(group, settings)) for f in families}
        formed += sum(prod(c.shape) for f in _FORMED for c in by_family.get(f, ()))
        stray = next(iter(group.tensors.values()))
        if formed > MOST_FORMED:
            raise stray.fail("with those before it, its products have more values than any model")
        found = [change for some in by_family.values() for change in some]
        used |= {family for family, some in by_family.items() if some}
        if not found:
            raise stray.fail("it has no factors beside it")
        settings.check_targets(group, tensor=stray.name)
        changes += found
    return changes, used


def _metadata(artifact: Artifact) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in artifact.watched:
        if isinstance(file, OpenFile) and file.location.suffix == ".safetensors":
            found |= read_header(file)[1]
    return found


def _sorted(artifact: Artifact) -> tuple[dict[str, Group], list[str], list[Stored]]:
    """Return the modules' tensors, the families they are of, and the tensors that are of none.

    Raises:
        FormatError: If a module has two tensors of one role.
    """
    file = artifact.path
    found: dict[str, dict[str, Stored]] = {}
    families: set[str] = set()
    others: list[Stored] = []
    for item in artifact.items:
        stored = Stored(item, file)
        known = _known(item.name)
        if known is None:
            others.append(stored)
            continue
        module, family, role = known
        families |= {family} - {""}
        tensors = found.setdefault(module, {})
        if role in tensors:
            raise stored.fail(f"'{tensors[role].name}' is the same factor of the same module")
        tensors[role] = stored
    for stored in list(others):  # LyCORIS' gains are called `weight`
        module = _bared(stored.name.removesuffix(".weight"))
        if "on_input" in found.get(module, {}) and stored.name.endswith(".weight"):
            found[module]["weight"] = stored
            others.remove(stored)
    groups = {module: Group(module, tensors, file) for module, tensors in found.items()}
    return groups, [family for family in FAMILIES if family in families], others


def _known(name: str) -> tuple[str, str, str] | None:
    """Return the module, family and role that a tensor's name tells; None where no table has it."""
    for ending, family, role in _ENDINGS:
        match = ending.fullmatch(name)
        if match is not None:
            return _bared(match["module"]), family, role
    return None


def _bared(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name.removesuffix(".base_layer")


def _shared(groups: dict[str, Group]) -> dict[str, Stored]:
    """Take the projections that all modules share from among them; none where none were saved.

    Raises:
        FormatError: If there is one of the two.
    """
    shared: dict[str, Stored] = {}
    for module, group in list(groups.items()):
        own = {role: of for role, of in group.tensors.items() if not role.startswith("shared_")}
        shared |= {role: of for role, of in group.tensors.items() if role not in own}
        if own:
            groups[module] = replace(group, tensors=own)
        else:
            del groups[module]
    for here, there in (("shared_A", "vera_B"), ("shared_B", "vera_A")):
        if here in shared and len(shared) < 2:
            raise shared[here].fail(f"it has no {there} beside it")
    return shared


def _saved(stored: Stored, settings: Settings, *, is_peft: bool) -> Iterable[Change]:
    """Yield a tensor that peft saves whole.

    Raises:
        FormatError: If nothing says why it is there.
    """
    name = _SAVED.sub("", _bared(stored.name))
    group = Group(name, {}, stored.file)
    module, _, leaf = name.rpartition(".")
    asked = settings.said(group, "modules_to_save")
    words = f".{module}."
    is_asked = any(f".{one}." in words for one in asked or ())
    is_bias = leaf == "bias" and settings.said(group, "bias") in {"all", "lora_only"}
    is_grown = canonical_name(f"{module}.weight").removesuffix(".weight") in _EMBEDDINGS
    if not is_peft or not (is_asked or is_bias or is_grown):
        raise stored.fail("no table of adapters knows it, and no configuration asks for it")
    return whole(stored, f"{stored.sole(module)}.{leaf}", "whole")


def _on_base(change: Change, layers: tuple[int, ...] | None, where: str) -> Change:
    """Say which of the base's tensors a repeated layer's is."""
    at = None if layers is None else layered(change.name)
    if layers is None or at is None:
        return change
    if at.number >= len(layers):
        reason = f"layer_replication makes {len(layers)} layers, and it is of layer {at.number}"
        raise FormatError(reason, file=where, tensor=change.name)
    stack = f"{at.stack}." if at.stack else ""
    return replace(change, base=f"{stack}{layers[at.number]}.{at.role}")


def _check_distinct(changes: Iterable[Change], file: str) -> None:
    seen: set[tuple[str, str]] = set()
    for change in changes:
        key = slug(change.name), change.kind
        if key in seen:
            raise FormatError(f"it changes {printable(change.name)} twice", file=file)
        seen.add(key)


def _says(config: Any, metadata: Mapping[str, str]) -> dict[str, str]:
    said = {**metadata, **(config if isinstance(config, dict) else {})}
    return {key: said[key] for key in SAYS if isinstance(said.get(key), str) and said[key]}
