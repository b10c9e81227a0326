"""Finds the model in what training tools save, and gives its tensors dotted names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.artifacts.pickled import Made
from lineage.artifacts.torch_tensors import LISTS, is_tensor
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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

_MAX_DEPTH = 64
_MAX_NAME, _MAX_NAMES = 1000, 100_000_000


def named_model(value: Any, file: OpenFile) -> list[tuple[str, Made]]:
    """Return the tensors of the model in a checkpoint, and their names, in the file's order.

    Raises:
        FormatError: If there is no tensor, or none but an optimizer's.
    """
    if is_tensor(value):
        return [("tensor", value)]
    holders = _holders(value)
    model, left_out = _model(value, holders)
    found = list(_Walk(file, holders).tensors(model))
    if not found and left_out:
        reason = f"holds no model, only what training keeps ({', '.join(left_out[:5])})"
        raise FormatError(f"{reason}; give the file with the weights", file=file.path)
    if not found:
        raise FormatError("holds no tensors", file=file.path)
    return found


def named(value: Any, file: OpenFile) -> list[tuple[str, Made]]:
    """Return every tensor in a value, and its name, in the file's order."""
    return list(_Walk(file, _holders(value)).tensors(value))


def _model(value: Any, holders: set[int]) -> tuple[Any, list[str]]:
    """Return the part of a checkpoint that is the model, and the names of what was left out."""
    left_out: list[str] = []
    for _ in range(_MAX_DEPTH):
        if isinstance(value, list | tuple):  # its places are no names that could say more
            if any(map(_is_optimizer, value)):
                left_out.append("optimizer state")
            return [None if _is_optimizer(part) else part for part in value], left_out
        if not isinstance(value, dict):
            break
        if _is_optimizer(value):
            return {}, [*left_out, "optimizer state"]
        kept = {}
        for key, part in value.items():
            if _is_training(key, part):
                left_out.append(printable(str(key), 40))
            else:
                kept[key] = part
        inner = _wrapped(kept, holders)
        if inner is None:
            return kept, left_out
        value = inner
    return value, left_out


def _wrapped(value: dict[Any, Any], holders: set[int]) -> dict[Any, Any] | None:
    """Return the model if it lies under a known name and nothing but numbers lies beside it."""
    models = [
        key
        for key in MODEL_KEYS
        if isinstance(value.get(key), dict) and _holds(value[key], holders)
    ]
    if not models:
        return None
    beside = (part for key, part in value.items() if key not in models)
    if any(_holds(part, holders) for part in beside if not _is_number(part)):
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


def _holds(value: Any, holders: set[int]) -> bool:
    """Return whether a value is a tensor, or holds one."""
    value = _opened(value)
    return is_tensor(value) or id(value) in holders


def _holders(value: Any) -> set[int]:
    """Return the ids of the dicts, lists and tuples in a value that hold a tensor, at any depth.

    They are found in one go, each entry looked at once: parts may be shared by any number of others
    and hold themselves, so that to ask each of them anew could cost the square of the file.
    """
    value = _opened(value)
    above: dict[int, list[int]] = {id(value): []}
    waiting, found = [value], list[int]()
    while waiting:
        outer = waiting.pop()
        number, is_holder = id(outer), False
        for _, entry in _parts(outer):
            part = _opened(entry)
            if is_tensor(part):
                is_holder = True
            elif part and isinstance(part, dict | list | tuple):
                if id(part) not in above:
                    above[id(part)] = []
                    waiting.append(part)
                above[id(part)].append(number)
        if is_holder:
            found.append(number)
    holders = set[int]()
    while found:
        number = found.pop()
        if number not in holders:
            holders.add(number)
            found += above[number]
    return holders


def _opened(value: Any) -> Any:
    """Return what TorchScript wraps: a call's list, an object's attributes."""
    if isinstance(value, Made):
        if value.by in LISTS:
            return value.arguments[0] if value.arguments else ()
        if value.by.startswith("__torch__."):
            return value.state
    return value


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the entries of a dict, list or tuple; none of anything else."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()


@dataclass(slots=True)
class _Walk:
    """Goes through values that may share parts or hold themselves, each once.

    Attributes:
        file: Where they come from.
        holders: What holds a tensor; the rest is passed by.
        letters: Of all names so far.
    """

    file: OpenFile
    holders: set[int]
    letters: int = 0

    def tensors(self, value: Any) -> Iterator[tuple[str, Made]]:
        """Yield every tensor and its name, in order.

        A part met again is passed over: its tensors would be tied to the ones already there.
        """
        value = _opened(value)
        if is_tensor(value):
            yield "", value
        seen = {id(value)}
        waiting = [iter(_parts(value))]
        names = [""]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
                names.pop()
                continue
            key, part = entry[0], _opened(entry[1])
            if id(part) in seen or not _holds(part, self.holders):
                continue
            seen.add(id(part))
            name = self.name(names[-1], key)
            if is_tensor(part):
                yield name, part
                continue
            if len(waiting) > _MAX_DEPTH:
                raise FormatError(f"nested more than {_MAX_DEPTH} deep", file=self.file.path)
            waiting.append(iter(_parts(part)))
            names.append(name)

    def name(self, outer: str, key: Any) -> str:
        """Return the name of an entry."""
        if isinstance(key, bytes) and key.isascii():  # text of Python 2
            key = key.decode()
        if type(key) is not str and type(key) is not int:
            raise FormatError(
                f"under '{printable(outer, 80)}', a tensor's key is no text", file=self.file.path
            )
        name = f"{outer}.{key}" if outer else str(key)
        self.letters += len(name)
        if len(name) > _MAX_NAME or self.letters > _MAX_NAMES:
            raise FormatError(f"a name of {len(name)} letters is too long", file=self.file.path)
        return name
