"""Files opened once: read through one descriptor, which is asked at the end if it changed."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from lineage.artifacts.guard import Guard
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_FREE_HOLE = 64 << 20
"""A file may have this much more of holes than of data: reading a hole costs time but no disk."""

_LARGE = 2 << 20
"""Windows begin and end at multiples of this, a large page of most processors."""


class OpenFile(NamedTuple):
    """A regular file, open for reading.

    Attributes:
        path: What errors call it.
        location: Where it is.
        descriptor: The one descriptor everything is read through.
        size: Its bytes.
        stamp: Device, inode, size, modification and change time in ns, as it was opened.
    """

    path: str
    location: Path
    descriptor: int
    size: int
    stamp: tuple[int, int, int, int, int]

    @classmethod
    def open(cls, path: Path, *, label: str) -> OpenFile:
        """Open a regular file for reading.

        Raises:
            FormatError: If it is no regular file.
            OSError: If it cannot be opened.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError("not a regular file", file=label)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(label, path, descriptor, status.st_size, _stamp(status))

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes at `start`; a file that ends sooner is an error."""
        if start + size > self.size:  # before anything is allocated
            reason = f"the file ends {start + size - self.size} bytes too soon; is it truncated?"
            raise FormatError(reason, file=self.path, offset=min(start, self.size))
        view = bytearray(size)
        self.read_into(start, memoryview(view))
        return bytes(view)

    def read_into(self, start: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `start`; a file that ends sooner is an error."""
        done = 0
        while done < len(view):
            got = _read_at(self.descriptor, view[done:], start + done)
            if got == 0:
                reason = f"the file ends {len(view) - done} bytes too soon; is it truncated?"
                raise FormatError(reason, file=self.path, offset=start + done)
            done += got

    def check_unchanged(self) -> None:
        """Raise `FormatError` if the file's size or times changed since it was opened."""
        if _stamp(os.fstat(self.descriptor)) != self.stamp:
            raise FormatError("the file changed while it was read", file=self.path)

    def fail(self) -> None:
        """Raise what bytes mean that were there as the file was opened, and cannot be read now.

        Raises:
            FormatError: If the file changed, as one that was cut short did.
            OSError: If it did not: the disk failed.
        """
        self.check_unchanged()
        raise OSError(errno.EIO, os.strerror(errno.EIO), self.path)

    def check_written(self) -> None:
        """Raise if holes are most of a large file: they cost time that nobody paid for in disk.

        An unfinished download leaves such a file. Bytes that were never written read as zeros.
        """
        if self.size <= _FREE_HOLE or not hasattr(os, "SEEK_DATA"):
            return
        data, at = 0, 0
        while at < self.size:
            try:
                begin = os.lseek(self.descriptor, at, os.SEEK_DATA)
            except OSError:  # no more data
                break
            at = os.lseek(self.descriptor, begin, os.SEEK_HOLE)
            data += at - begin
        if self.size - data > data + _FREE_HOLE:
            reason = f"{self.size - data} of its {self.size} bytes were never written"
            raise FormatError(f"{reason} (a sparse file); is it half a download?", file=self.path)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


def _stamp(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_at(descriptor: int, view: memoryview, offset: int) -> int:
    """Read into `view`, without a copy where the system can; return how many bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    data = os.pread(descriptor, len(view), offset)
    view[: len(data)] = data
    return len(data)


@dataclass(frozen=True, slots=True)
class Region:
    """A run of bytes in an open file: the `Source` of a tensor stored plainly."""

    file: OpenFile
    start: int

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        """Read into `scratch`; see `Source`."""
        view = scratch[:size]
        self.file.read_into(self.start + start, view)
        return view

    @contextmanager
    def window(self, start: int, size: int) -> Iterator[memoryview]:
        """Map some of the bytes while the `with` lasts: faster than a copy where files are large.

        If the file is cut short later, zeros are read and leaving the `with` raises. Use nothing
        that was read before that.

        Raises:
            FormatError: If the file changed.
            OSError: If it cannot be mapped, or the disk fails.
        """
        at = self.start + start
        skip = at % _LARGE
        end = min(-(-(at + size) // _LARGE) * _LARGE, max(self.file.size, at + size))
        with (
            self._mapped(at - skip, end - at + skip) as mapped,
            memoryview(mapped) as view,
            Guard(view, self.file.fail),
            view[skip : skip + size] as found,
        ):
            yield found

    def _mapped(self, at: int, size: int) -> mmap.mmap:
        """Map bytes of the file, which the system is asked for: it may have been cut short."""
        try:
            return mmap.mmap(self.file.descriptor, size, access=mmap.ACCESS_READ, offset=at)
        except ValueError as error:  # "mmap length is greater than file size"
            reason = "the file changed while it was read"
            raise FormatError(reason, file=self.file.path, offset=at) from error


class Opener:
    """Opens the files of one artifact, each once, and closes them together."""

    def __init__(self) -> None:
        self.files: list[OpenFile] = []
        self.stack = ExitStack()

    def open(self, path: Path, *, label: str) -> OpenFile:
        """Open a file that the caller named."""
        for file in self.files:
            if file.location == path:
                return file
        file = OpenFile.open(path, label=label)
        self.stack.callback(file.close)
        self.files.append(file)
        return file

    def beside(self, file: OpenFile, name: str, *, tensor: str | None = None) -> OpenFile:
        """Open a file that another file names: in the same folder or below it, nowhere else.

        Raises:
            FormatError: If the name is absolute, climbs out of the folder, or links out of it.
        """
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            reason = f"names the file {printable(repr(name))}, which is not a place beside it"
            raise FormatError(reason, file=file.path, tensor=tensor)
        found = file.location.parent / path
        check_inside(found, file.location.parent, label=file.path, tensor=tensor)
        if not is_file(found):
            raise FormatError(
                f"its file {printable(name)} is missing", file=file.path, tensor=tensor
            )
        return self.open(found, label=str(found))


def is_file(path: Path) -> bool:
    """Return whether a file is there; under a name that no file can have there is none."""
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def check_inside(path: Path, folder: Path, *, label: str, tensor: str | None = None) -> None:
    """Raise `FormatError` if a link leads from a model's folder to a file elsewhere.

    The snapshots of a hub cache link to the blobs of the same repository, and may; where the cache
    keeps the blobs of all its repositories together, these link there.

    Source: the cache layout of huggingface_hub, and its store of shared blobs (since 2.0).
    """
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    homes = [home]
    for above in (home, *home.parents):
        if above.name == "snapshots" and (above.parent / "blobs").is_dir():
            homes.append(above.parent)
            shared = above.parent.parent / "blobs"
            if (shared / ".huggingface-shared-blobs").is_file():
                homes.append(shared)
    if not any(real.is_relative_to(home) for home in homes):
        reason = f"{printable(path.name)} links to a file outside the model's folder"
        raise FormatError(f"{reason}; name that file itself", file=label, tensor=tensor)
