"""WebDataset: a tar whose neighbouring files of one stem are a record.

The record is an object of `__key__`, the path up to the first dot of its last part, and one member
a file, called by what follows that dot, whose value is the file's bytes. The archive is read once
from front to back and nothing is written to disk.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from blake3 import blake3

from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, done, unpacked
from lineage.datasets.watched import PIECE, WatchedFile
from lineage.errors import FormatError, printable
from lineage.manifests.records import Typed, canonical

unit = "sample"
suffixes = (".tar", ".tar.gz", ".tar.zst")

_AT_ONCE = 4096


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few thousand samples."""
    held: list[dict[str, object]] = []
    is_first = True
    for sample in _samples(file):
        if is_first:
            yield Columns(tuple(sample))
            is_first = False
        held.append(sample)
        if len(held) == _AT_ONCE:
            yield _digest, (held, near)
            held = []
    yield _digest, (held, near)


def _digest(samples: list[dict[str, object]], near: Near | None) -> Done:
    return done([canonical(sample) for sample in samples], len(samples), [], near)


def _samples(file: WatchedFile) -> Iterator[dict[str, object]]:
    sample: dict[str, object] = {}
    try:
        with tarfile.open(fileobj=unpacked(file), mode="r|") as archive:
            for member in archive:
                name = _safe(member, file)
                if name is None:
                    continue
                path = PurePosixPath(name)
                stem, _, ending = path.name.partition(".")
                key = str(path.with_name(stem)) if stem else name
                if sample.get("__key__") != key:
                    if sample:
                        yield sample
                    sample = {"__key__": key}
                if not ending or ending == "__key__" or ending in sample:
                    reason = f"'{printable(name)}' is no file of a sample, or is there twice"
                    raise FormatError(reason, file=file.path)
                sample[ending] = _content(archive, member)
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = f"broken or cut archive: {printable(str(error))}"
        raise FormatError(reason, file=file.path) from error
    if sample:
        yield sample


def _safe(member: tarfile.TarInfo, file: WatchedFile) -> str | None:
    """Return a member's path; None for a folder.

    Raises:
        FormatError: If the path leaves the archive's folder, or the member is not a plain file.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        reason = f"the path '{printable(member.name)}' leads out of the archive"
        raise FormatError(reason, file=file.path)
    if member.isdir():
        return None
    if not member.isreg():
        reason = f"'{printable(member.name)}' is a link or device, not a file"
        raise FormatError(reason, file=file.path)
    try:
        member.name.encode()
    except UnicodeEncodeError:
        reason = f"the path '{printable(member.name)}' is not UTF-8"
        raise FormatError(reason, file=file.path) from None
    return str(path)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Typed:
    hasher = blake3()
    size = 0
    content = archive.extractfile(member)
    assert content is not None
    while piece := content.read(PIECE):
        hasher.update(piece)
        size += len(piece)
    if size != member.size:
        raise tarfile.ReadError(f"'{member.name}' ends early")
    return Typed("bytes", hasher.hexdigest())
