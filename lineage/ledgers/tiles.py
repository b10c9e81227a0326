"""Where a tree's hashes and entries lie: C2SP tlog-tiles, and the arithmetic of growing them.

A tile holds up to 256 neighbouring hashes of one level; each hash of level `n` is the root of 256
of level `n - 1`. A bundle holds the entries under one tile of level 0, each behind its length as an
unsigned 16-bit big-endian number. Full ones never change; the last of each level is partial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lineage import merkle
from lineage.digest import SIZE
from lineage.errors import LedgerError

WIDTH = 256
HEIGHT = 8
MAX_ENTRY_BYTES = 0xFFFF

ENTRIES = "entries"
_PATH = re.compile(r"(tile/(?:\d{1,2}|entries)/(?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d{0,2}))?", re.ASCII)


def path(level: int | str, index: int, width: int = WIDTH) -> str:
    """Return the path of tile `index` of `level`, or of an entry bundle.

    Example:
        >>> path(0, 1234067), path(ENTRIES, 0, width=5)
        ('tile/0/x001/x234/067', 'tile/entries/000.p/5')
    """
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(groups)}{partial}"


def parse_path(name: str) -> tuple[str, int]:
    """Return the path without its width, and the width.

    Raises:
        LedgerError: If it is no such path.
    """
    match = _PATH.fullmatch(name)
    width = int(match[2] or WIDTH) if match else 0
    if match is None or not 1 <= width <= WIDTH or match[2] == str(WIDTH):
        raise LedgerError(f"'{name[:80]}' is not a path of a log")
    return match[1], width


def cut(full_path: str, data: bytes, width: int) -> bytes:
    """Return the first `width` hashes of a tile, or entries of a bundle.

    Raises:
        LedgerError: If there are fewer.
    """
    if not full_path.startswith(f"tile/{ENTRIES}/"):
        if len(data) < SIZE * width:
            raise LedgerError(f"{full_path} is narrower than {width}")
        return data[: SIZE * width]
    return join(split(full_path, data)[:width]) if width < WIDTH else data


def split(name: str, bundle: bytes) -> list[bytes]:
    """Return the entries of a bundle.

    Raises:
        LedgerError: If an entry is cut off or there are more than 256.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        if end > len(bundle) or at + 2 > len(bundle) or len(entries) == WIDTH:
            raise LedgerError(f"{name} is damaged at byte {at}")
        entries.append(bundle[at + 2 : end])
        at = end
    return entries


def join(entries: Sequence[bytes]) -> bytes:
    """Return the bundle of `entries`."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


class Tree:
    """A tree of `size` leaves, read tile by tile; each tile is read and hashed once.

    Args:
        read: Returns the bytes of a path; they are checked for length, not believed.
        size: The number of leaves.
    """

    def __init__(self, read: Callable[[str], bytes], size: int) -> None:
        self.size = size
        self._read = read
        self._tiles: dict[tuple[int, int], list[bytes]] = {}
        self._nodes: dict[tuple[int, int], bytes] = {}  # roots inside tiles, by height and index

    def width(self, level: int, index: int) -> int:
        """Return how many hashes tile `index` of `level` holds; 0 or less if it is not there."""
        return min(WIDTH, (self.size >> (HEIGHT * level)) - WIDTH * index)

    def tile(self, level: int, index: int) -> list[bytes]:
        """Return the hashes of a tile."""
        if (level, index) not in self._tiles:
            name = path(level, index, self.width(level, index))
            data = self._read(name)
            if len(data) != SIZE * self.width(level, index):
                raise LedgerError(f"{name} has {len(data)} bytes: the log is damaged")
            hashes = [data[at : at + SIZE] for at in range(0, len(data), SIZE)]
            self._tiles[level, index] = hashes
        return self._tiles[level, index]

    def bundle(self, index: int) -> list[bytes]:
        """Return the entries under tile `index` of level 0."""
        width = self.width(0, index)
        name = path(ENTRIES, index, width)
        entries = split(name, self._read(name))
        if len(entries) != width:
            raise LedgerError(f"{name} has {len(entries)} entries: the log is damaged")
        return entries

    def root(self, low: int = 0, high: int | None = None) -> bytes:
        """Return the root over leaves `low` to `high`, where `low` is a start that a proof names.

        That is a multiple of every power of two up to the size of the range, so the range falls
        into complete subtrees, the largest first.
        """
        high = self.size if high is None else high
        subtrees = []
        while low < high:
            height = (high - low).bit_length() - 1
            subtrees.append(self._subtree(height, low >> height))
            low += 1 << height
        return merkle.fold(subtrees) if subtrees else merkle.root([])

    def _subtree(self, height: int, index: int) -> bytes:
        """Return the root of complete subtree `index` among those of `2**height` leaves."""
        level, rest = divmod(height, HEIGHT)
        if rest == 0:
            tile, at = divmod(index, WIDTH)
            return self.tile(level, tile)[at]
        if (height, index) not in self._nodes:
            left, right = (self._subtree(height - 1, 2 * index + side) for side in (0, 1))
            self._nodes[height, index] = merkle.node_hash(left, right)
        return self._nodes[height, index]

    def grow(self, entries: Sequence[bytes]) -> dict[str, bytes]:
        """Return the resources to write when `entries` are appended; the widest of each only."""
        puts: dict[str, bytes] = {}
        first, width = divmod(self.size, WIDTH)
        before = self.bundle(first) if width else []
        if [merkle.leaf_hash(entry) for entry in before] != (self.tile(0, first) if width else []):
            raise LedgerError("the last entries do not hash to their tile: the log is damaged")
        held = [*before, *entries]
        for at in range(0, len(held), WIDTH):
            part = held[at : at + WIDTH]
            puts[path(ENTRIES, first + at // WIDTH, len(part))] = join(part)
        level, hashes = 0, [merkle.leaf_hash(entry) for entry in entries]
        while hashes:
            first, width = divmod(self.size >> (HEIGHT * level), WIDTH)
            row = [*(self.tile(level, first) if width else []), *hashes]
            hashes = []  # of the level above: the roots of the tiles that are now full
            for at in range(0, len(row), WIDTH):
                part = row[at : at + WIDTH]
                puts[path(level, first + at // WIDTH, len(part))] = b"".join(part)
                if len(part) == WIDTH:
                    hashes.append(merkle.root(part))
            level += 1
        return puts
