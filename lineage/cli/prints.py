"""What `lineage fingerprint` does, apart from how its line is read.

It is the verb that is run on every file, so it can be called without waiting for `click`: a plain
line is read by `options` here, and any other by the command in `lineage.cli.measure`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from lineage.cli import late, say
from lineage.errors import FormatError, LineageError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.delta import Delta

_FLAGS = {
    "--digests": "digests",
    "--neurons": "neurons",
    "--no-cache": "no_cache",
    "--json": "as_json",
}
_TIERS = {"--exact": "exact", "--fast": "fast"}


def options(words: Sequence[str]) -> dict[str, Any] | None:
    """Read the words behind `lineage fingerprint`.

    Returns:
        The arguments of `fingerprint`; None where they are not plain (help, `--output=FILE`, `--`,
        two tiers, a slip), and `click` should say what they mean.
    """
    found: dict[str, Any] = dict.fromkeys(_FLAGS.values(), False)
    found |= dict.fromkeys(("tier", "output", "base"))
    paths: list[str] = []
    left = iter(words)
    for word in left:
        if word in _FLAGS:
            found[_FLAGS[word]] = True
        elif word in _TIERS and found["tier"] is None:
            found["tier"] = _TIERS[word]
        elif word in {"-o", "--output"} and found["output"] is None:
            value = next(left, "-")
            if value.startswith("-"):
                return None
            found["output"] = Path(value)
        elif word.startswith("-"):
            return None
        else:
            paths.append(word)
    return found | {"paths": tuple(paths)} if paths else None


def fingerprint(
    paths: tuple[str, ...],
    output: Path | None,
    tier: str | None,
    *,
    digests: bool,
    neurons: bool,
    no_cache: bool,
    as_json: bool,
    base: str | None,
) -> int:
    """Print the exact identity of models, save what comparisons need, and return the status."""
    from lineage.artifacts import models_in

    status = 0
    rows: list[dict[str, Any]] = []
    models: list[str] = []
    for path in paths:
        try:
            models += models_in(path)
        except (LineageError, OSError) as error:
            if len(paths) == 1:
                raise
            say.note(f"lineage: {described(error, path)}")
            status = 3
    targets = _targets(models, output)
    for path in models:
        try:
            made, seconds = timed(
                path, tier or "full", neurons=neurons, cache=not no_cache, base=base
            )
            if output is not None:
                _save(made, targets[path])
        except (LineageError, OSError) as error:
            if len(models) == len(paths) == 1:
                raise
            say.note(f"lineage: {described(error, path)}")
            status = 3
            continue
        late.hold(made)
        ids = {"id": made.root}
        if as_json:  # of many tensors each takes as long as hashing 100 MB
            ids |= {"content_id": made.content_id, "value_id": made.value_id}
        rows.append(
            {
                "path": path,
                **ids,
                "bytes": made.size_bytes,
                "tensors": len(made.tensors),
                "seconds": round(seconds, 4),
                "scheme": made.scheme,
                "warnings": list(made.warnings),
            }
        )
        if made.delta is not None:
            rows[-1] |= delta_json(made.delta)
        if digests:
            rows[-1]["digests"] = _digests(path)
    say.result({"fingerprints": rows}, lambda: _fingerprint_text(rows), as_json=as_json)
    return status


def delta_json(delta: Delta) -> dict[str, Any]:
    """Return what is printed of what an adapter changes."""
    return {
        "delta_id": delta.id,
        "delta_ids": list(delta.ids),
        "delta_codes": list(delta.codes),
        "delta": {
            "family": delta.family,
            "norm": float(f"{delta.norm:.6g}"),
            "changes": [
                {"name": c.name, "kind": c.kind, "shape": list(c.shape), "rank": c.rank}
                for c in delta.changes
            ],
            "says": dict(delta.says),
        },
    }


def _digests(path: str) -> dict[str, Any]:
    from lineage.artifacts.digests import file_digests

    return file_digests(path).to_json()


def _fingerprint_text(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        size = _size(row["bytes"])
        tensors = say.count(row["tensors"], "tensor")
        lines.append(f"{row['id']}  {printable(row['path'])}  {tensors}, {size}")
        if "delta_id" in row:
            changes = row["delta"]["changes"]
            ranks = sorted({c["rank"] for c in changes if c["rank"] is not None})
            said = ""
            if ranks:
                said = f" of rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")
            lines.append(f"  delta {row['delta_id']}  {len(changes)} changes{said}")
        found = row.get("digests", {"files": []})
        lines += [f"  sha256 {f['sha256']}  {printable(f['name'])}" for f in found["files"]]
        if found.get("oms"):
            lines.append(f"  model-signing subject sha256 {found['oms']['sha256']}")
    return "\n".join(lines)


def timed(
    path: str, tier: str, *, neurons: bool = False, cache: bool, base: str | None = None
) -> tuple[Fingerprint, float]:
    """Fingerprint a model or load a saved one, with a bar and warnings on stderr; and seconds."""
    from lineage.adapters import is_adapter
    from lineage.fingerprints import fingerprint as make

    started = time.perf_counter()
    with _progress(path) as advance:
        made = make(path, tier=tier, neurons=neurons, cache=cache, base=base, progress=advance)
    for line in made.warnings:
        say.note(f"{printable(path)}: {printable(line)}")
    if made.delta is None and is_adapter(tensor.name for tensor in made.tensors):
        say.note(f"{printable(path)}: what it changes cannot be told: {untold(path, base)}")
    if neurons and made.neurons is None:
        say.note(f"{printable(path)}: no stream is known by names and shapes; no neuron sketch")
    return made, time.perf_counter() - started


def untold(path: str, base: str | None = None) -> str:
    """Say why what an adapter changes is not known."""
    from lineage.adapters import adapter_of
    from lineage.adapters.base import Unread
    from lineage.artifacts import read
    from lineage.fingerprints import SUFFIX

    if Path(path).suffix != SUFFIX:
        with read(path) as artifact:
            found = adapter_of(artifact, path, base)
            if isinstance(found, Unread):
                return found.reason
    return "it is no adapter, or a part of a model's tensors"


@contextmanager
def _progress(path: str) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on stderr while somebody watches and the model is large."""
    total = _bytes_at(path) if say.interactive() else 0
    if total < 256_000_000:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(PurePath(path).name), total=total)
        yield lambda size: bar.advance(task, size)


def _bytes_at(path: str) -> int:
    """Return the bytes of a model's tensors; only headers are read."""
    from lineage.artifacts import read
    from lineage.fingerprints import SUFFIX

    if Path(path).suffix == SUFFIX:
        return 0
    with read(path) as artifact:
        return artifact.size_bytes


def _save(made: Fingerprint, path: Path) -> None:
    """Write a fingerprint, into a new folder if need be."""
    from lineage.fingerprints import save

    if path.is_dir():
        raise FormatError("a folder; name a file for one fingerprint", file=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(made, path)


def _targets(models: list[str], output: Path | None) -> dict[str, Path]:
    """Return where each fingerprint goes: one into the file named, several into that folder.

    Names are as many of a path's last parts as it takes to tell the models apart.
    """
    if output is None or len(models) == 1:
        return {path: output or Path() for path in models}
    parts = {
        path: [p for p in PurePath(path).parts if p not in {"/", "..", "."}] for path in models
    }
    for count in range(1, 1 + max(map(len, parts.values()), default=0)):
        names = {path: "-".join(found[-count:]) for path, found in parts.items()}
        if len(set(names.values())) == len(names):
            break
    else:
        names = {path: f"{number}-{'-'.join(parts[path])}" for number, path in enumerate(models)}
    return {path: output / f"{name}.lineage" for path, name in names.items()}


def described(error: Exception, path: str) -> str:
    """Return an error in one line that names the path."""
    if isinstance(error, OSError):
        where = path if error.filename is None else str(error.filename)
        return f"{printable(where)}: {error.strerror or error}"
    return str(error)


def _size(size_bytes: int) -> str:
    size, unit = float(size_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
