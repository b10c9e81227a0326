"""Finds the model in what training tools save, and gives its tensors dotted names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lineage.artifacts.pickled import Made
from lineage.artifacts.torch_tensors import LISTS, is_tensor
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.artifacts.opened import OpenFile

MODEL_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network",
    "weights", "params", "state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema",
)  # fmt: skip
"""Where training tools keep the model, the ones whose weights were trained before their averages:
Lightning and timm, PyTorch's tutorials, fairseq, DeepSpeed, BasicSR."""

_TRAINING = ("optim", "sched", "scaler", "rng_state")
"""Parts of the names of what is kept to go on training."""

_TRAINING_KEYS = frozenset((
    "opt", "opt_state", "loops", "callbacks", "hyper_parameters", "hparams", "amp", "args", "cfg",
    "config", "datamodule_hyper_parameters", "native_amp_scaling_state", "trainer", "metrics",
    "best_metric", "history", "extra_state", "param_shapes", "ds_config",
))  # fmt: skip

_ITSELF = Made("", ())
"""The key of what is no part but the whole."""

_MAX_DEPTH = 64
_MAX_NAME, _MAX_NAMES = 1000, 100_000_000


def named_model(value: Any, file: OpenFile) -> list[tuple[str, Made]]:
    """Return the tensors of the model in a checkpoint, and their names, in the file's order.

    Raises:
        FormatError: If there is no tensor, or none but an optimizer's.
    """
    if is_tensor(value):
        return [("tensor", value)]
    model, left_out = _model(value)
    found = list(_Walk(file).tensors(model))
    if not found and left_out:
        reason = f"holds no model, only what training keeps ({', '.join(left_out[:5])})"
        raise FormatError(f"{reason}; give the file with the weights", file=file.path)
    if not found:
        raise FormatError("holds no tensors", file=file.path)
    return found


def named(value: Any, file: OpenFile) -> list[tuple[str, Made]]:
    """Return every tensor in a value, and its name, in the file's order."""
    return list(_Walk(file).tensors(value))


def _model(value: Any) -> tuple[Any, list[str]]:
    """Return the part of a checkpoint that is the model, and the names of what was left out."""
    left_out: list[str] = []
    for _ in range(_MAX_DEPTH):
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if not isinstance(value, dict):
            break
        if _is_optimizer(value):
            return {}, [*left_out, "optimizer state"]
        rest = {}
        for key, part in value.items():
            if _is_training(key, part):
                left_out.append(printable(str(key), 40))
            else:
                rest[key] = part
        inner = _wrapped(rest)
        if inner is None:
            return rest, left_out
        value = inner
    return value, left_out


def _wrapped(value: dict[Any, Any]) -> dict[Any, Any] | None:
    """Return the model if it lies under a known name and nothing but numbers lies beside it."""
    models = [key for key in MODEL_KEYS if isinstance(value.get(key), dict) and _holds(value[key])]
    if not models:
        return None
    beside = [part for key, part in value.items() if key not in models]
    if _holds([part for part in beside if not _is_number(part)]):
        return None
    found: dict[Any, Any] = value[models[0]]
    return found


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, dict) and {"state", "param_groups"} <= value.keys()


def _is_training(key: Any, value: Any) -> bool:
    """Return whether an entry is kept to go on training, judged by its name and its form."""
    if _is_optimizer(value):
        return True
    if not isinstance(key, str) or "." in key:
        return False
    name = key.lower()
    if is_tensor(value):  # a weight may have any name
        return "rng_state" in name
    return name in _TRAINING_KEYS or any(part in name for part in _TRAINING)


def _is_number(value: Any) -> bool:
    """Return whether a tensor is one number, such as the best score so far."""
    if not is_tensor(value) or len(value.arguments) < 3:
        return False
    return value.arguments[2] in ((), (1,))


def _holds(value: Any, barren: set[int] | None = None) -> bool:
    """Return whether there is a tensor in a value.

    Args:
        value: What is asked of.
        barren: Values known to hold none, which are passed by; those found here are added, so that
            many questions about shared parts cost no more than one.
    """
    known = set[int]() if barren is None else barren
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if is_tensor(part):
            return True
        if id(part) not in seen and id(part) not in known and (parts := _parts(part)):
            seen.add(id(part))
            waiting.extend(inner for _, inner in parts)
    known |= seen
    return False


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """Return the entries of a dict, list or TorchScript object."""
    if isinstance(value, Made):
        if value.by in LISTS:
            value = value.arguments[0] if value.arguments else ()
        elif value.by.startswith("__torch__."):
            value = value.state
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return [(_ITSELF, value)] if is_tensor(value) else []


@dataclass(slots=True)
class _Walk:
    """Goes through values that may share parts or hold themselves, each once."""

    file: OpenFile
    letters: int = 0
    barren: set[int] = field(default_factory=set)

    def tensors(self, value: Any) -> Iterator[tuple[str, Made]]:
        """Yield every tensor and its name, in order.

        A part met again is passed over: its tensors would be tied to the ones already there.
        """
        seen = {id(value)}
        waiting = [iter(_parts(value))]
        names = [""]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
                names.pop()
                continue
            key, part = entry
            if id(part) in seen or not (is_tensor(part) or _parts(part)):
                continue
            seen.add(id(part))
            name = self.name(names[-1], key, part)
            if is_tensor(part):
                yield name, part
                continue
            if len(waiting) > _MAX_DEPTH:
                raise FormatError(f"nested more than {_MAX_DEPTH} deep", file=self.file.path)
            waiting.append(iter(_parts(part)))
            names.append(name)

    def name(self, outer: str, key: Any, part: Any) -> str:
        """Return the name of an entry."""
        if key is _ITSELF:
            return outer
        if isinstance(key, bytes) and key.isascii():  # text of Python 2
            key = key.decode()
        if type(key) is not str and type(key) is not int:
            if not _holds(part, self.barren):
                return outer
            raise FormatError(
                f"under '{printable(outer, 80)}', a tensor's key is no text", file=self.file.path
            )
        name = f"{outer}.{key}" if outer else str(key)
        self.letters += len(name)
        if len(name) > _MAX_NAME or self.letters > _MAX_NAMES:
            raise FormatError(f"a name of {len(name)} letters is too long", file=self.file.path)
        return name
