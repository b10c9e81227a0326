"""A model as roles with named axes, in float64, and the moves that every disguise is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from folders import Arrays, Config, Folder, Vocabulary, is_float
from layouts import AXES, DIALECTS, Dialect

Maps = dict[str, np.ndarray]
"""What a disguise did: orders (new[i] = old[order[i]]), matrices (new = matrix @ old), factors."""


@dataclass(frozen=True, slots=True)
class Network:
    """A model taken apart.

    Attributes:
        parts: Role -> values; a part has an axis for each name in `axes`.
        axes: Role -> names of its axes.
        config: Its configuration.
        vocabulary: Token -> row.
        dialect: How a transformer is laid out; None for other networks.
        others: What is stored but is not weights, such as counters.
        kind: `transformer`, `convolutional` or `recurrent`.
    """

    parts: Mapping[str, np.ndarray]
    axes: Mapping[str, tuple[str, ...]]
    config: Config
    vocabulary: Vocabulary | None
    dialect: Dialect | None
    others: Arrays = field(default_factory=dict)
    kind: str = "transformer"

    @property
    def layers(self) -> range:
        """Return the numbers of a transformer's layers."""
        return range(1 + max(int(role.split(".")[0]) for role in self.parts if role[0].isdigit()))

    @property
    def spaces(self) -> dict[str, int]:
        """Return the size of every named axis."""
        sizes: dict[str, int] = {}
        for role, names in self.axes.items():
            for name, size in zip(names, self.parts[role].shape, strict=True):
                if name != "own" and sizes.setdefault(name, size) != size:
                    raise ValueError(f"{role}: axis {name!r} is {size} long, not {sizes[name]}")
        return sizes

    def touching(self, space: str) -> list[str]:
        """Return the roles that have an axis of that name."""
        return [role for role, names in self.axes.items() if space in names]

    def but(self, parts: Mapping[str, np.ndarray], **config: object) -> Network:
        """Return a copy with some parts and settings replaced."""
        axes = dict(self.axes)
        axes |= {role: axes_of(role) for role in parts if role not in axes}
        return replace(
            self, parts={**self.parts, **parts}, axes=axes, config={**self.config, **config}
        )

    def expanded(self, role: str) -> Iterator[str]:
        """Yield the roles at hand that a role with `#` in it stands for."""
        numbers = self.layers if "#" in role else [0]
        names = (role.replace("#", str(number)) for number in numbers)
        yield from (name for name in names if name in self.parts)


def axes_of(role: str) -> tuple[str, ...]:
    """Return the names of the axes of a transformer's part.

    Example:
        >>> axes_of("2.up.w")
        ('units.2', 'residual')
    """
    number, _, rest = role.partition(".")
    if not number.isdigit():
        return AXES[role]
    return tuple(name.replace("#", number) for name in AXES[f"#.{rest}"])


# Moves


def reordered(network: Network, space: str, order: np.ndarray) -> Network:
    """Return a network whose place i of an axis holds what was at `order[i]`; places may go."""
    moved = {}
    for role in network.touching(space):
        value = network.parts[role]
        for axis, name in enumerate(network.axes[role]):
            if name == space:
                value = value.take(order, axis)
        moved[role] = value
    return network.but(moved)


def along(network: Network, role: str, space: str, by: np.ndarray) -> np.ndarray:
    """Return a part with an axis multiplied by a matrix (new = matrix @ old) or by factors."""
    value = network.parts[role]
    for axis, name in enumerate(network.axes[role]):
        if name != space:
            continue
        if by.ndim == 1:
            value = value * by.reshape(-1, *[1] * (value.ndim - axis - 1))
        else:
            value = np.moveaxis(np.tensordot(by, value, (1, axis)), 0, axis)
    return value


# Reading and writing transformers


def taken_apart(model: Folder) -> Network:
    """Return a transformer as roles.

    Raises:
        ValueError: If no dialect has a role for every tensor.
    """
    kind = model.config.get("model_type", "")
    if kind not in DIALECTS:
        raise ValueError(f"no table of roles for model type {kind!r}")
    for dialect in DIALECTS[kind]:
        roles = _roles(model.arrays, dialect)
        if len(roles) == sum(map(is_float, model.arrays.values())):
            break
    else:
        lost = sorted(set(model.arrays) - set(_roles(model.arrays, DIALECTS[kind][0]).values()))
        raise ValueError(f"{kind}: no role for {lost[:3]}")
    parts: dict[str, np.ndarray] = {}
    for role, name in roles.items():
        parts |= _read(role, model.arrays[name].astype(np.float64), dialect, model.config)
    axes = {role: axes_of(role) for role in parts}
    others = {name: a for name, a in model.arrays.items() if not is_float(a)}
    network = Network(parts, axes, model.config, model.vocabulary, dialect, others)
    network.spaces  # noqa: B018 - refuses what does not fit together
    return network


def put_together(network: Network) -> Folder:
    """Return a transformer's arrays under their names, in float64."""
    dialect = network.dialect
    if dialect is None:
        raise ValueError("only transformers are put together from roles")
    arrays: Arrays = dict(network.others)
    for role, name in dialect.names.items():
        for number in network.layers if "#" in role else [0]:
            value = _written(role.replace("#", str(number)), network, dialect)
            if value is not None:
                arrays[name.replace("#", str(number))] = np.ascontiguousarray(value)
    return Folder(network.config, arrays, network.vocabulary)


def _roles(arrays: Mapping[str, np.ndarray], dialect: Dialect) -> dict[str, str]:
    """Return role -> name for the tensors that a dialect has a role for."""
    found = {}
    for role, template in dialect.names.items():
        pattern = re.compile(re.escape(template).replace(r"\#", r"(\d+)"))
        for name in arrays:
            match = pattern.fullmatch(name)
            if match:
                found[role.replace("#", match[1]) if match.groups() else role] = name
    return found


def heads_of(config: Config, dialect: Dialect) -> tuple[int, int, int]:
    """Return the numbers of key heads, of queries that share one, and of coordinates in each."""
    heads = int(config[dialect.heads])
    groups = int(config.get("num_key_value_heads") or heads)
    inside = int(config.get("head_dim") or config[dialect.width] // heads)
    return groups, heads // groups, inside


def _read(role: str, value: np.ndarray, dialect: Dialect, config: Config) -> dict[str, np.ndarray]:
    if dialect.turned and role[0].isdigit() and value.ndim == 2:
        value = value.T
    groups, members, inside = heads_of(config, dialect)
    number, _, rest = role.partition(".")
    match rest:
        case "qkv.w" | "qkv.b":
            end, tail = rest[-1], value.shape[1:]
            if dialect.fused == "heads":
                three = np.moveaxis(value.reshape(groups, 3, inside, *tail), 1, 0)
            else:
                three = value.reshape(3, groups, inside, *tail)
            shaped = three[0].reshape(groups, 1, inside, *tail)
            named = zip("qkv", (shaped, three[1], three[2]), strict=True)
            return {f"{number}.{letter}.{end}": part for letter, part in named}
        case "q.w" | "q.b":
            value = value.reshape(groups, members, inside, *value.shape[1:])
        case "k.w" | "k.b" | "v.w" | "v.b":
            value = value.reshape(groups, inside, *value.shape[1:])
        case "o.w":
            value = value.reshape(-1, groups, members, inside)
    return {role: value}


def _written(role: str, network: Network, dialect: Dialect) -> np.ndarray | None:
    """Return the tensor that a role of the dialect is stored in; None if there is none."""
    number, _, rest = role.partition(".")
    if rest.startswith("qkv"):
        three = [network.parts.get(f"{number}.{letter}.{rest[-1]}") for letter in "qkv"]
        q, k, v = three
        if q is None or k is None or v is None:
            return None
        stacked = np.stack([q[:, 0], k, v], 1 if dialect.fused == "heads" else 0)
        value = stacked.reshape(-1, *k.shape[2:])
    elif role not in network.parts:
        return None
    else:
        value = network.parts[role]
        match rest:
            case "q.w" | "k.w" | "v.w":
                value = value.reshape(-1, value.shape[-1])
            case "q.b" | "k.b" | "v.b":
                value = value.reshape(-1)
            case "o.w":
                value = value.reshape(len(value), -1)
    return value.T if dialect.turned and number.isdigit() and value.ndim == 2 else value
