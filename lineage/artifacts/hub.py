"""Finds the weight files of a model: a file, a sharded set, a hub-style folder, a hub cache.

Source: the index format of sharded checkpoints, and the cache layout
(`models--org--name/{blobs,refs,snapshots}`), of huggingface_hub.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lineage import canonical
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX_SUFFIX = ".safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")
_REPOSITORY = re.compile(r"(?P<id>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w.-]{1,96}))?")
_COMMIT = re.compile(rb"[0-9A-Za-z_-]{1,64}")
_PREFERRED = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors",
)
_CONFIGURATIONS = ("config.json", "adapter_config.json", "model_index.json")
_OTHER_FORMATS = {
    ".bin": "a PyTorch pickle", ".pt": "a PyTorch pickle", ".pth": "a PyTorch pickle",
    ".ckpt": "a PyTorch pickle", ".gguf": "GGUF", ".onnx": "ONNX", ".h5": "HDF5",
    ".keras": "Keras", ".npz": "a NumPy archive", ".npy": "a NumPy array",
}  # fmt: skip


def weight_files(path: Path, *, label: str) -> tuple[list[Path], dict[str, str] | None]:
    """Return the safetensors files of a model and, where an index names one, tensor -> file name.

    Args:
        path: A safetensors file, an index, a folder with either, or a folder of the hub cache.
        label: How the caller named it.

    Raises:
        FormatError: If there are no weights, or it cannot be said which files are the model.
        OSError: If `path` is not there.
    """
    if not path.is_dir():
        path.stat()
        if path.name.endswith(INDEX_SUFFIX):
            return _indexed(path, label=label)
        if path.suffix != ".safetensors":
            kind = _OTHER_FORMATS.get(path.suffix, "not a safetensors file")
            raise FormatError(f"{kind}; only safetensors is read", file=label)
        return [path], None
    path = _snapshot(path, label=label)
    indexes = sorted(path.glob(f"*{INDEX_SUFFIX}"))
    if len(indexes) > 1:
        raise _ambiguous(indexes, label)
    if indexes:
        return _indexed(indexes[0], label=label)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise _no_weights(path, label)
    if len(files) == 1 and not _are_shards(files):
        return files, None
    for name in _PREFERRED:
        if path / name in files:
            return [path / name], None
    return _shards_without_index(files, label=label), None


def located(source: str | os.PathLike[str]) -> Path:
    """Return where a model is: a path, or the snapshot of `org/name[@revision]` in the hub cache.

    A path that is there always wins. Nothing is downloaded.

    Raises:
        OSError: If there is neither.
    """
    label = os.fspath(source)
    if not label:
        raise FileNotFoundError(errno.ENOENT, "the path is empty", label)
    path = Path(label)
    match = _REPOSITORY.fullmatch(label)
    if match is None or path.exists():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(match["id"], revision=match["revision"], local_files_only=True)
    except (LocalEntryNotFoundError, ValueError):
        raise FileNotFoundError(errno.ENOENT, "no such path, nor in the hub cache", label) from None
    return Path(found)


def models_in(source: str | os.PathLike[str], depth: int = 2) -> list[str]:
    """Return the models at a path: itself, or those that a folder of models holds.

    A folder is one model if it has an index, a configuration beside its weights, or the shards of
    one model; otherwise every weight file, saved fingerprint and subfolder in it stands for itself.

    Raises:
        FormatError: If a folder holds no model.
        OSError: If the path is not there.
    """
    label = os.fspath(source)
    path = located(source)
    named = label if path == Path(label) else str(path)
    found = list(_models_in(path, named, depth))
    if not found:
        raise _no_weights(path, label)
    return [label] if found == [named] else found


def _models_in(path: Path, label: str, depth: int) -> Iterator[str]:
    if not path.is_dir():
        path.stat()
        yield label
        return
    files = sorted(path.glob("*.safetensors"))
    has_config = any((path / name).is_file() for name in _CONFIGURATIONS)
    is_one = any(path.glob(f"*{INDEX_SUFFIX}")) or (files and (has_config or _are_shards(files)))
    if is_one or _is_cache(path):
        yield label
        return
    for entry in sorted(path.iterdir()):
        name = f"{label.rstrip('/')}/{entry.name}"  # as given: a Path would drop a leading ./
        if entry.is_dir() and depth and not entry.name.startswith("."):
            yield from _models_in(entry, name, depth - 1)
        elif entry.suffix in {".safetensors", ".lineage"}:
            yield name


def _are_shards(files: list[Path]) -> bool:
    return all(_SHARD.fullmatch(file.name) for file in files)


def _indexed(index: Path, *, label: str) -> tuple[list[Path], dict[str, str]]:
    """Return the shards that an index names."""
    document: Any = canonical.loads(index.read_bytes(), file=index, floats=True)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError("the index has no weight_map", file=index)
    for tensor, name in weight_map.items():
        plain = (
            isinstance(name, str) and PurePosixPath(name).name == name and name not in {"", ".."}
        )
        if not plain:
            reason = f"the index names the file {printable(str(name))!r}, which is not a plain name"
            raise FormatError(reason, file=index, tensor=tensor)
        if not (index.parent / name).is_file():
            raise FormatError(f"its shard {printable(name)} is missing", file=label, tensor=tensor)
    return [index.parent / name for name in sorted(set(weight_map.values()))], weight_map


def _shards_without_index(files: list[Path], *, label: str) -> list[Path]:
    """Return a full set of numbered shards; anything else is ambiguous."""
    matches = [_SHARD.fullmatch(file.name) for file in files]
    numbered = [m for m in matches if m is not None]
    if len(numbered) != len(files) or len({(m["stem"], m["total"]) for m in numbered}) != 1:
        raise _ambiguous(files, label)
    missing = set(range(1, int(numbered[0]["total"]) + 1)) - {int(m["number"]) for m in numbered}
    if missing:
        raise FormatError(f"shard {min(missing)} of {numbered[0]['total']} is missing", file=label)
    return files


def _snapshot(path: Path, *, label: str) -> Path:
    """Return the snapshot that a hub-cache folder points to; any other folder is itself."""
    if not _is_cache(path):
        return path
    reference = path / "refs" / "main"
    if reference.is_file():
        commit = reference.read_bytes()[:200].strip()
        if _COMMIT.fullmatch(commit) and (path / "snapshots" / commit.decode()).is_dir():
            return path / "snapshots" / commit.decode()
    snapshots = sorted(p for p in (path / "snapshots").iterdir() if p.is_dir())
    if len(snapshots) == 1:
        return snapshots[0]
    raise FormatError(f"a cache with {len(snapshots)} snapshots; name one of them", file=label)


def _is_cache(path: Path) -> bool:
    return (path / "snapshots").is_dir() and (path / "blobs").is_dir()


def _ambiguous(files: list[Path], label: str) -> FormatError:
    names = ", ".join(printable(file.name) for file in files[:4])
    more = f" and {len(files) - 4} more" if len(files) > 4 else ""
    return FormatError(f"several weight files and no index ({names}{more}); name one", file=label)


def _no_weights(path: Path, label: str) -> FormatError:
    """Say what a folder without safetensors files does hold."""
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return FormatError("the folder is empty", file=label)
    for name in names:
        kind = _OTHER_FORMATS.get(PurePosixPath(name).suffix)
        if kind is not None:
            reason = f"the folder has no safetensors file; {printable(name)} is {kind}"
            return FormatError(reason, file=label)
    return FormatError("the folder holds no weights", file=label)
