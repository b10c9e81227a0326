"""Finds a model by the name of its repository: in the hub cache, or fetched into it.

Source: the cache layout (`models--org--name/{blobs,refs,snapshots}`) and the `hf://` names of
huggingface_hub.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lineage.artifacts import folders
from lineage.artifacts.choice import is_weights
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.artifacts.remote import Repository

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REVISION = r"refs/(?:pr/\d{1,9}|convert/[\w.-]{1,96})|[^/@]{1,200}"
_PLAIN = rf"(?P<id>{_NAME}/{_NAME})(?:@(?P<revision>{_REVISION}))?(?P<path>)"
_NAMED = (
    rf"hf:/{{1,2}}(?:models/)?(?P<id>(?!(?:datasets|spaces|kernels|buckets)/){_NAME}/{_NAME})"
    rf"(?:@(?P<revision>{_REVISION}))?(?:/(?P<path>.*))?"
)
"""One slash after `hf:` is what a `pathlib.Path` leaves of two."""

_COMMIT = r"[0-9A-Za-z_-]{1,64}"
_WHOLE_COMMIT = r"[0-9a-f]{40}"


def located(source: str | os.PathLike[str]) -> Path:
    """Return where a model is: a path, or the files of a repository in the hub cache.

    A path that is there always wins over `org/name`, and so does what the cache holds of it. For
    `hf://org/name` the hub is asked what the revision is now; a commit never changes, and is not
    asked for again. What is not in the cache is fetched, unless `HF_HUB_OFFLINE` is set.

    Raises:
        FormatError: If it cannot be said which files are the model, or the name is malformed.
        OSError: If there is neither path nor repository, or the hub refuses or cannot be reached.
    """
    label = os.fspath(source)
    if not label:
        raise FileNotFoundError(errno.ENOENT, "the path is empty", label)
    is_here = not label.startswith("hf:/") and _is_there(Path(label))
    repository = None if is_here else parsed(label)
    if repository is None:
        return _snapshot(Path(label), label)
    from huggingface_hub import constants

    from lineage.artifacts.remote import fetched

    offline = bool(constants.HF_HUB_OFFLINE)
    path_too = "" if repository.remote else "no such path; "
    if offline or not repository.remote or re.fullmatch(_WHOLE_COMMIT, repository.revision or ""):
        found, reason = _cached(repository, Path(constants.HF_HUB_CACHE))
        if found is not None:
            return found
        if offline:
            words = f"{path_too}in the hub cache {reason}, and HF_HUB_OFFLINE is set"
            raise FileNotFoundError(errno.ENOENT, words, label)
    try:
        return fetched(repository)
    except OSError as error:
        if path_too and error.filename == label:
            error.strerror = f"{path_too}as a repository: {error.strerror}"
        raise


def models_in(source: str | os.PathLike[str], depth: int = 2) -> list[str]:
    """Return the models at a path: itself, or those that a folder of models holds.

    A folder is one model if it has an index, a configuration beside its weights, or the shards of
    one model; otherwise every weight file, saved fingerprint and subfolder in it stands for itself.
    Several GGUF files are several models.

    Raises:
        FormatError: If a folder holds no model.
        OSError: As `located`.
    """
    label = os.fspath(source)
    path = located(source)
    if path != Path(label):  # a repository, or its folder in the cache: one model
        return [label]
    found = list(folders.models_in(path, label, depth))
    if not found:
        raise folders.no_weights(path, label)
    return found


def parsed(label: str) -> Repository | None:
    """Return the repository that a name may stand for; None if it can only be a path.

    A plain name that ends like a weight file is a path: a slip in one asks no hub.

    Raises:
        FormatError: If it begins with `hf:` and is no repository's name.
    """
    remote = label.startswith("hf:/")
    match = re.fullmatch(_NAMED if remote else _PLAIN, label, re.ASCII)
    if match is None or "--" in match["id"] or ".." in match["id"]:
        if remote:
            raise FormatError("not hf://org/name[@revision][/path] of a model", file=label)
        return None
    if not remote and (is_weights(match["id"]) or match["id"].endswith((".lineage", ".json"))):
        return None
    from lineage.artifacts.remote import Repository

    revision = None if match["revision"] is None else unquote(match["revision"])
    path = (match["path"] or "").rstrip("/")
    if not _stays_inside(path) or (revision is not None and not _stays_inside(revision)):
        raise FormatError("its revision or path climbs or has an empty part", file=label)
    return Repository(match["id"], revision, path, label, remote)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no path can have
        return False


def _stays_inside(path: str) -> bool:
    """Return whether a path stays where it is put."""
    parts = path.split("/") if path else []
    return not ({"", ".", ".."} & set(parts)) and not set("\\\0") & set(path)


def _snapshot(path: Path, label: str) -> Path:
    """Return the snapshot that a folder of the hub cache points to; any other path is itself."""
    if not folders.is_cache(path):
        return path
    commit = _commit_of(path / "refs" / "main")
    if commit and (path / "snapshots" / commit).is_dir():
        return path / "snapshots" / commit
    snapshots = sorted(p for p in (path / "snapshots").iterdir() if p.is_dir())
    if len(snapshots) == 1:
        return snapshots[0]
    raise FormatError(f"a cache with {len(snapshots)} snapshots; name one of them", file=label)


def _commit_of(reference: Path) -> str:
    """Return the commit that a reference of the cache holds; "" if it holds none."""
    if not reference.is_file():
        return ""
    with reference.open("rb") as file:
        commit = file.read(200).strip().decode("utf-8", "replace")
    return commit if re.fullmatch(_COMMIT, commit) else ""


def _cached(repository: Repository, cache: Path) -> tuple[Path | None, str]:
    """Return where the cache has what is named, or None and why it cannot be read there."""
    folder = cache / f"models--{repository.id.replace('/', '--')}"
    revision = repository.revision or "main"
    commit = _commit_of(folder / "refs" / revision) or revision
    found = folder / "snapshots" / commit / repository.path
    if not re.fullmatch(_COMMIT, commit) or not found.exists():
        return None, "it is not there"
    try:
        files = [f for part in folders.parts_of(found, label=repository.label) for f in part.files]
    except FormatError as error:
        return None, error.reason
    gone = [file.name for file in files if not file.is_file()]  # links to blobs that are no more
    return (None, f"its {printable(gone[0])} is gone") if gone else (found, "")
