"""Fetches one model of a repository into the hub cache.

Fetching is huggingface_hub's: its cache, its token (`HF_TOKEN` or the stored one), its resumed
downloads and `HF_ENDPOINT`. Only one set of weights is asked for, chosen from the repository's
listing as it would be from a folder.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lineage.artifacts import folders
from lineage.artifacts.choice import (
    COMPONENTS,
    CONFIGURATIONS,
    Choice,
    choose,
    choose_named,
    is_index,
    is_weights,
)
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SMALL = (
    *CONFIGURATIONS,
    COMPONENTS,
    "README.md",
    "mergekit_config.yml",
    "mergekit_config.yaml",
    "mergekit_moe_config.yml",
)
"""What is fetched beside weights: what they are, and what they are declared to come from."""

_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
"""What huggingface_hub runs into where an answer is no hub's."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository, or a file or folder in it.

    Attributes:
        id: `org/name`.
        revision: A branch, tag, commit or `refs/pr/3`; None is the main branch.
        path: In the repository; "" is all of it.
        label: How the caller named it.
        remote: Whether the caller said `hf://`, and so means what the hub has now.
    """

    id: str
    revision: str | None
    path: str
    label: str
    remote: bool


def fetched(repository: Repository) -> Path:
    """Fetch one model of a repository, and return where it is.

    1. The listing of the revision, and its commit.
    2. The names of its components, where it is made of several.
    3. The weight files chosen from the listing, or their index; and the small files beside.
    4. The shards that an index names.
    """
    # 1.
    hub = _Hub(repository, os.environ.get("HF_ENDPOINT", "").rstrip("/") or None)
    commit, tree = hub.listing()
    base = PurePosixPath(repository.path)
    if repository.path in tree.names:
        base = base.parent
    elif repository.path and not any(_below(name, base) for name in tree.names):
        raise FileNotFoundError(errno.ENOENT, "the repository has no such file", repository.label)
    top = tree.within(base)

    # 2.
    components: list[str] = []
    if repository.path in tree.names:
        chosen = [choose_named(PurePosixPath(repository.path).name, top, repository.label)]
    else:
        if COMPONENTS in top:
            home = hub.fetch([str(base / COMPONENTS)], commit, commit)
            components = folders.components_of(home / base / COMPONENTS)
        chosen = choose(lambda f: tree.within(base / f), components, repository.label)
    if not chosen:
        raise FormatError("the repository holds no weights that are read", file=repository.label)

    # 3.
    wanted = [str(base / name) for name in _SMALL if name in top]
    for choice in chosen:
        folder = base / choice.folder
        wanted += [str(folder / name) for name in _files(choice, tree.within(folder))]
    for name in components:
        inner = tree.within(base / name)
        wanted += [str(base / name / file) for file in inner if file.endswith("config.json")]
    home = hub.fetch(wanted, repository.revision, commit)

    # 4.
    for choice in chosen:
        if choice.index is not None:
            folder = base / choice.folder
            named = set(folders.weight_map_of(home / folder / choice.index).values())
            hub.fetch([str(folder / name) for name in sorted(named)], commit, commit)
    return home / repository.path


@dataclass(frozen=True, slots=True)
class _Tree:
    """A repository's listing."""

    names: frozenset[str]

    def within(self, folder: PurePosixPath) -> list[str]:
        """Return the names of the files in a folder."""
        below = (_below(name, folder) for name in self.names)
        return sorted(name for name in below if name and "/" not in name)


def _below(name: str, folder: PurePosixPath) -> str:
    """Return a name as seen from a folder; "" if it is not below it."""
    prefix = "" if str(folder) == "." else f"{folder}/"
    return name.removeprefix(prefix) if name.startswith(prefix) else ""


def _files(choice: Choice, beside: list[str]) -> Iterator[str]:
    """Yield the files of a choice; with ONNX, those beside it that may hold its tensors."""
    yield from choice.files
    if choice.index is not None:
        yield choice.index
    if any(name.endswith(".onnx") for name in choice.files):
        others = [name for name in beside if name.endswith(".onnx") and name not in choice.files]
        for name in beside:
            known = is_weights(name) or is_index(name) or name.endswith((".json", ".txt", ".md"))
            if not known and not name.startswith((".", *others)):
                yield name


@dataclass(frozen=True, slots=True)
class _Hub:
    """Calls of huggingface_hub, whose errors become one line each."""

    repository: Repository
    endpoint: str | None

    def listing(self) -> tuple[str, _Tree]:
        """Return the commit that the revision is now, and its files."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint)
        info = self.ask(api.model_info, revision=self.repository.revision)
        names = [file.rfilename for file in info.siblings or ()]
        if not re.fullmatch(r"[0-9A-Za-z_-]{1,64}", info.sha or "") or not all(
            isinstance(name, str) for name in names
        ):
            reason = "the hub's answer is no listing of a commit"
            raise FormatError(reason, file=self.repository.label)
        return info.sha, _Tree(frozenset(names))

    def fetch(self, names: list[str], revision: str | None, commit: str) -> Path:
        """Fetch files of a commit into the cache and return its folder."""
        from huggingface_hub import snapshot_download

        patterns = [glob.escape(name) for name in names]
        found = self.ask(
            snapshot_download, revision=revision, allow_patterns=patterns, endpoint=self.endpoint
        )
        if Path(found).name != commit:
            words = "its revision moved while it was fetched; try again"
            raise OSError(errno.EAGAIN, words, self.repository.label)
        return Path(found)

    def ask(self, call: Callable[..., Any], **how: Any) -> Any:
        """Call `call(id, ...)`, without progress bars where nobody watches."""
        from huggingface_hub.errors import HfHubHTTPError

        # Which HTTP library is below has changed twice; its errors are what this one derives from.
        failures: tuple[Any, ...] = HfHubHTTPError.__bases__
        try:
            with _unwatched():
                return call(self.repository.id, **how)
        except (OSError, *_NONSENSE, *failures) as error:
            raise _told(error, self.repository) from None


def _told(error: BaseException, repository: Repository) -> OSError | FormatError:
    """Return an error of huggingface_hub as one of ours: what is wrong, in one line."""
    from huggingface_hub import errors

    label, status = repository.label, getattr(getattr(error, "response", None), "status_code", 0)
    token = "give a token (HF_TOKEN, or log in)"  # noqa: S105
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _told(error.__cause__, repository)
    if isinstance(error, errors.GatedRepoError):
        words = f"the repository is gated: ask its owner for access, then {token}"
        return PermissionError(errno.EACCES, words, label)
    if isinstance(error, errors.RevisionNotFoundError):
        words = f"the repository has no revision {printable(repository.revision or 'main')}"
        return FileNotFoundError(errno.ENOENT, words, label)
    if isinstance(error, errors.RepositoryNotFoundError) and status == 404:
        return FileNotFoundError(errno.ENOENT, "no such repository", label)
    if isinstance(error, errors.RepositoryNotFoundError):  # a hub tells strangers no more
        words = f"no such repository, or a private one; for that, {token}"
        return FileNotFoundError(errno.ENOENT, words, label)
    if status in {401, 403}:
        return PermissionError(errno.EACCES, f"the hub refuses ({status}): {token}", label)
    if status:
        return OSError(errno.EIO, f"the hub answers {status}", label)
    words = printable(f"{type(error).__name__}: {error}".split("\n")[0])
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return error  # of the disk
    if isinstance(error, _NONSENSE):
        return FormatError(f"the hub's answer cannot be understood ({words})", file=label)
    return ConnectionError(errno.ENETUNREACH, f"the hub cannot be reached ({words})", label)


@contextmanager
def _unwatched() -> Iterator[None]:
    """Show no progress bars unless both outputs are a terminal or the user asks for them."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    watched = sys.stdout.isatty() and sys.stderr.isatty()
    asked = constants.HF_HUB_DISABLE_PROGRESS_BARS is False
    if watched or asked or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
