"""What a reader of records is, and how it reads its file in pieces or lines.

A reader turns one file into jobs, in the file's order. A job is a function and its arguments; it
may run in another thread or process, and tells the digests of its records. What is wrong in a
record is told, not raised: whoever collects the jobs decides whether a bad record is skipped.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, final

from lineage.datasets.hashing import digest_texts
from lineage.datasets.json_texts import Bad
from lineage.datasets.watched import PIECE, WatchedFile
from lineage.errors import FormatError
from lineage.manifests.records import MAX_RECORD_BYTES

MOST_SKETCHED = 1 << 13
"""Records to be sketched that one job gets at most, however short: a sketch is 512 bytes."""

Near = Callable[[list[bytes]], bytes]
"""Sketches of canonical texts, one behind the other."""


@final
@dataclass(frozen=True, slots=True)
class Done:
    """What a job found.

    Args:
        digests: 32 bytes a record, bad ones left out.
        lines: How far the job's lines, rows or items move the count that a bad one is told by.
        bad: Each bad record: its line from the job's first on, and the reason.
        near: Sketches of the same records, where asked for.
    """

    digests: bytes
    lines: int
    bad: tuple[Bad, ...] = ()
    near: bytes = b""


@final
@dataclass(frozen=True, slots=True)
class Columns:
    """Names that records of a file have, told once and not part of any digest."""

    names: tuple[str, ...]


Job = tuple[Callable[..., Done], tuple[Any, ...]]


@final
@dataclass(frozen=True, slots=True)
class Source:
    """One file to read.

    Args:
        name: What the manifest calls it: its path from the folder given, with `/`.
        path: Where it is; None for what is in memory.
        kind: The reader's name.
        split: `train`, `test` or `validation`, where its path says so.
        extra: What a reader needs beside the file: an image's other values, an object in memory.
    """

    name: str
    path: Path | None
    kind: str
    split: str | None = None
    extra: Any = None


class Reader(Protocol):
    """Turns a file into jobs."""

    unit: str
    """What a bad record is told by: `line`, `row`, `item`, `sample`."""

    suffixes: tuple[str, ...]
    """The file names it takes when nobody says what they are."""

    def jobs(self, file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
        """Return the jobs of a file, each digest in the order of its records.

        Raises:
            FormatError: If the file as a whole cannot be read; single records are `Done.bad`.
        """


@final
class _Raw(io.RawIOBase):
    """A watched file as the standard library's decompressors want one."""

    def __init__(self, file: WatchedFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def unpacked(file: WatchedFile) -> BinaryIO:
    """Return a stream of what a file holds, decompressed where its name says it is compressed."""
    raw = io.BufferedReader(_Raw(file), PIECE)
    match file.path.suffix:
        case ".gz":
            return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
        case ".zst":
            try:
                import zstandard
            except ImportError:
                reason = "compressed with zstd, which needs the package zstandard"
                raise FormatError(reason, file=file.path) from None
            return zstandard.ZstdDecompressor().stream_reader(raw)
    return raw


def pieces(file: WatchedFile) -> Iterator[bytes]:
    """Return a file's bytes, decompressed, in pieces of about `PIECE`."""
    stream = unpacked(file)
    try:
        while piece := stream.read(PIECE):
            yield piece
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FormatError(f"broken compression: {error}", file=file.path) from error
    except Exception as error:
        if type(error).__module__.startswith("zstandard"):
            raise FormatError(f"broken compression: {error}", file=file.path) from error
        raise


def whole_lines(file: WatchedFile, near: Near | None = None) -> Iterator[bytes]:
    """Return a file in pieces that end with a line, but for the last; a mark at its start is cut.

    Args:
        file: Read from where it is.
        near: What sketches a record a line, where pieces are to be no more than can be sketched.

    Raises:
        FormatError: On text in UTF-16 or UTF-32, and on a line without end.
    """
    rest: list[bytes] = []
    held = begin = 0
    is_first = True
    for piece in pieces(file):
        if is_first:
            piece, is_first = without_mark(piece, file.path), False
        cut = piece.rfind(b"\n") + 1
        if held + (piece.find(b"\n") if cut else len(piece)) > MAX_RECORD_BYTES:
            reason = f"a line is longer than {MAX_RECORD_BYTES} bytes"
            raise FormatError(reason, file=file.path, offset=begin)
        if not cut:
            rest.append(piece)
            held += len(piece)
            continue
        lines = b"".join([*rest, piece[:cut]])
        begin += len(lines)
        while near is not None and lines.count(b"\n") > MOST_SKETCHED:
            after = lines.split(b"\n", MOST_SKETCHED)[-1]
            yield lines[: -len(after)]
            lines = after
        yield lines
        rest = [piece[cut:]]
        held = len(rest[0])
    if held:
        yield b"".join(rest)


def without_mark(begin: bytes, path: Path) -> bytes:
    """Return the first bytes of a text without UTF-8's byte-order mark.

    Raises:
        FormatError: If the mark is another encoding's.
    """
    if begin.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        raise FormatError("the text is in UTF-16 or UTF-32, not UTF-8", file=path)
    return begin.removeprefix(b"\xef\xbb\xbf")


def done(texts: Iterable[bytes], lines: int, bad: list[Bad], near: Near | None) -> Done:
    """Return what a job found.

    Args:
        texts: The canonical texts of its records; taken one by one unless they are sketched.
        lines: How many lines, rows or items it has.
        bad: Those that are no records, complete once all texts were taken.
        near: What sketches them.
    """
    if near is None:
        return Done(digest_texts(texts), lines, tuple(bad))
    texts = list(texts)
    return Done(digest_texts(texts), lines, tuple(bad), near(texts))
