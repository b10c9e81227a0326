"""What is said beside an adapter's factors: its configuration, its file's metadata, its alphas.

Sources: `LoraConfig` and `get_pattern_key` of peft, `lora_adapter_metadata` of diffusers,
`ss_network_args` of kohya and LyCORIS.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from lineage import canonical
from lineage.artifacts.hub import located
from lineage.artifacts.opened import OpenFile
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lineage.adapters.base import Group

__all__ = ["SAYS", "Settings", "beside", "layers_of"]

SAYS = (
    "base_model_name_or_path", "revision", "peft_type",
    "ss_base_model_version", "ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash",
    "ss_output_name", "ss_network_module", "modelspec.architecture", "modelspec.title",
    "modelspec.hash_sha256", "sshs_model_hash", "general.architecture",
    "general.base_model.0.name", "general.base_model.0.repo_url",
)  # fmt: skip
"""What is kept, of a configuration and of metadata, of what an adapter declares."""

_COMPONENT = re.compile(r"^(unet|transformer|text_encoder(?:_[23])?)\.")
_MOST_BYTES = 1 << 24
_LONGEST, _MOST = 1 << 14, 6
_REPEATED, _OPEN = re.compile(r"\)[*+{]|\\\d"), re.compile(r"[*+]|\{\d*,")
"""A repeated group or a reference to one may take exponential time, each open end multiplies it."""
_INDEX = re.compile(r".*?\.[^.]*\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Settings:
    """Configurations by the part of a pipeline that they are of; `""` is the whole's.

    Attributes:
        configs: Part -> what peft would be given.
        where: What errors call the configuration.
        is_stabilized: Whether LyCORIS was told to divide alpha by the root of the rank.
    """

    configs: Mapping[str, Mapping[str, Any]]
    where: str
    is_stabilized: bool = False

    @classmethod
    def read(cls, config: Any, metadata: Mapping[str, str], *, file: str, where: str) -> Settings:
        """Make them of a configuration file's JSON, or None, and of a weight file's metadata.

        Raises:
            FormatError: If either is not what it should be.
        """
        if config is not None:
            if not isinstance(config, dict):
                raise FormatError("the configuration is not a JSON object", file=where)
            _check_types(config, where)
            return cls({"": config}, where)
        arguments = metadata.get("ss_network_args", "")
        is_stabilized = bool(re.search(r'"rs_lora"\s*:\s*"?true', arguments, re.IGNORECASE))
        text = metadata.get("lora_adapter_metadata")
        if text is None:
            return cls({}, file, is_stabilized)
        where = f"{file}: lora_adapter_metadata"
        said = canonical.loads(text.encode(), file=where, max_bytes=_MOST_BYTES, floats=True)
        if not isinstance(said, dict):
            raise FormatError("not a JSON object", file=where)
        configs: dict[str, dict[str, Any]] = {}
        for key, value in said.items():
            found = _COMPONENT.match(key)
            part = found[1] if found else ""
            configs.setdefault(part, {})[key[found.end() :] if found else key] = value
        for part in configs.values():
            _check_types(part, where)
        return cls(configs, where)

    @property
    def unread(self) -> str | None:
        """What is set that makes factors mean something else, or only a part of the change."""
        asked = (key for config in self.configs.values() for key in _UNREAD if config.get(key))
        return next(asked, None)

    def said(self, group: Group, key: str) -> Any:
        """Return what the configuration that a module is under says; see `Scaling`."""
        return self._config(group)[0].get(key)

    def _config(self, group: Group) -> tuple[Mapping[str, Any], str]:
        """Return the configuration of a module, and the module's name in it."""
        found = _COMPONENT.match(group.module)
        if found and found[1] in self.configs:
            return self.configs[found[1]], group.module[found.end() :]
        return self.configs.get("", {}), group.module

    def of(self, group: Group, rank: int | None, *, tensor: str) -> float:
        """Return the scale of a module's product; see `Scaling`."""
        config, module = self._config(group)
        ranks = self._patterned(config, "rank_pattern", "r", module)
        said = _number(ranks, "r", self.where)
        if rank is not None and said is not None and said != rank:
            reason = f"its rank is {rank}, but {self.where} says {said:g}"
            raise FormatError(reason, file=group.file, tensor=tensor)
        if "alpha" in group.tensors:
            alpha: float | None = group.tensors["alpha"].number()
        else:
            name = "lora_alpha" if "lora_alpha" in config else "alpha"
            given = self._patterned(config, "alpha_pattern", name, module)
            alpha = _number(given, name, self.where)
        rank = int(said) if rank is None and said is not None else rank
        if alpha is None or rank is None:
            return 1.0
        if config.get("use_rslora") is True or self.is_stabilized:
            return alpha / math.sqrt(rank)
        return alpha / rank

    def check_targets(self, group: Group, *, tensor: str) -> None:
        """Raise `FormatError` where a module is none that the configuration names."""
        config, module = self._config(group)
        targets, layers = config.get("target_modules"), config.get("layers_to_transform")
        is_all = targets is None or targets == "all-linear"
        if not is_all and not self._is_named(config, "target_modules", module):
            reason = f"{self.where} does not name the module {printable(module)} a target"
            raise FormatError(reason, file=group.file, tensor=tensor)
        if self._is_named(config, "exclude_modules", module):
            reason = f"{self.where} leaves the module {printable(module)} out (exclude_modules)"
            raise FormatError(reason, file=group.file, tensor=tensor)
        chosen = [layers] if isinstance(layers, int) else layers
        if not chosen:
            return
        found = _INDEX.match(f".{module}.")
        if found is not None and int(found[1]) not in chosen:
            reason = f"{self.where} transforms the layers {chosen}, not {found[1]}"
            raise FormatError(reason, file=group.file, tensor=tensor)

    def _is_named(self, config: Mapping[str, Any], key: str, module: str) -> bool:
        """Whether a module is one that a list of ends, or a regular expression, names."""
        named = config.get(key)
        if isinstance(named, str):
            return _regex(named, key, self.where).fullmatch(module) is not None
        return any(f".{module}".endswith(f".{one}") for one in named or ())

    def _patterned(self, config: Mapping[str, Any], patterns: str, key: str, module: str) -> Any:
        """Return what a configuration says of one module: by the first pattern that is its end."""
        for pattern, value in (config.get(patterns) or {}).items():
            if _regex(rf"(.*\.)?({pattern})$", patterns, self.where).match(module):
                return value
        return config.get(key)


def _check_types(config: Mapping[str, Any], where: str) -> None:
    """Raise `FormatError` where a configuration holds something of another type."""
    for key, (is_fine, what) in _TYPES.items():
        value = config.get(key)
        if value is not None and not is_fine(value):
            raise FormatError(f"{key} is {printable(repr(value), 40)}, not {what}", file=where)


def _are(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


_NAMES = (lambda value: isinstance(value, str) or _are(str, value), "names or an expression")
_TABLE = (lambda value: isinstance(value, dict), "a JSON object")
_FLAG = (lambda value: isinstance(value, bool), "true or false")
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "peft_type": (lambda value: isinstance(value, str), "text"),
    "target_modules": _NAMES, "exclude_modules": _NAMES, "feedforward_modules": _NAMES,
    "modules_to_save": (lambda value: _are(str, value), "a list of names"),
    "layers_to_transform": (lambda value: type(value) is int or _are(int, value), "layers"),
    "rank_pattern": _TABLE, "alpha_pattern": _TABLE,
    "use_dora": _FLAG, "use_rslora": _FLAG, "fan_in_fan_out": _FLAG, "lora_bias": _FLAG,
    "save_projection": _FLAG,
}  # fmt: skip
"""What is read of a configuration: whether a value is of its type, and what that is called."""

_UNREAD = (
    "target_parameters", "trainable_token_indices", "use_qalora", "use_bdlora", "kasa_config",
    "monteclora_config", "arrow_config",
)  # fmt: skip


def beside(source: Any, name: str) -> tuple[Any, str]:
    """Return the JSON of a file beside weights, or None, and what to call it."""
    if not isinstance(source, str | PathLike):
        return None, "memory"
    path = located(source)
    file = (path if path.is_dir() else path.parent) / name
    if not file.is_file():
        return None, fspath(source)
    opened = OpenFile.open(file, label=str(file))
    try:
        if opened.size > _MOST_BYTES:
            raise FormatError(f"{opened.size} bytes, more than any configuration has", file=file)
        data = opened.read(0, opened.size)
    finally:
        opened.close()
    return canonical.loads(data, file=file, floats=True), str(file)


def _regex(pattern: str, key: str, where: str) -> re.Pattern[str]:
    """Compile a pattern that a file brought, unless it may take for ever."""
    reason = None
    if len(pattern) > _LONGEST or _REPEATED.search(pattern) or len(_OPEN.findall(pattern)) > _MOST:
        reason = "is a regular expression that could take for ever"
    else:
        try:
            return re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            reason = "is no regular expression"
    raise FormatError(f"{key}: {printable(pattern, 60)} {reason}", file=where)


def _number(value: Any, key: str, where: str) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (key == "r" and value < 1):
        raise FormatError(
            f"{key} is {printable(repr(value), 40)}, not a number of its kind", file=where
        )
    return float(value)


def layers_of(config: Mapping[str, Any], *, where: str) -> tuple[int, ...] | None:
    """Return the base's layer of each layer that an adapter was trained on, if it repeats some.

    Raises:
        FormatError: If `layer_replication` is no list of ranges.
    """
    ranges = config.get("layer_replication")
    if not ranges:
        return None
    layers: list[int] = []
    for one in ranges if isinstance(ranges, list) else [None]:
        if not (
            isinstance(one, list) and len(one) == 2 and all(type(n) is int for n in one)
            and 0 <= one[0] < one[1] <= 1 << 16
        ):  # fmt: skip
            raise FormatError("layer_replication is no list of [first, end]", file=where)
        layers += range(*one)
    return tuple(layers)
