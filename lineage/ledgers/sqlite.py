"""A log in one SQLite file.

Tiles, bundles and the head change in one transaction, so the head never names a tile that is not
there. A connection lives for one call: a store can be shared by threads, survives a fork and has
nothing to close.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import final

from lineage.errors import FormatError, LedgerError, StaleHeadError
from lineage.ledgers import tiles
from lineage.ledgers.base import StoreInfo

APPLICATION_ID = 0x4D4C4F47
"""`MLOG` in the file's header, so that no other program's database is mistaken for a log."""

VERSION = 1
BUSY_SECONDS = 60.0

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE head (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    origin TEXT NOT NULL,
    size INTEGER NOT NULL,
    checkpoint BLOB NOT NULL
) STRICT;
CREATE TABLE resource (
    path TEXT PRIMARY KEY,  -- without the width: only the widest is kept
    width INTEGER NOT NULL,
    bytes BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""


@final
class SqliteStore:
    """A store in one file.

    Args:
        path: The file, which must be such a log.

    Raises:
        FileNotFoundError: If there is no file.
        FormatError: If it is not a log.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        if not self._path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        with self._connect() as connection:
            self._check(connection)
            row = connection.execute("SELECT origin FROM head").fetchone()
            if row is None:
                raise LedgerError(f"{self._path}: it has no head: the log is damaged")
            (origin,) = row
        self._info = StoreInfo(str(path), origin, tiles.MAX_ENTRY_BYTES)

    @classmethod
    def create(cls, path: Path | str, origin: str, checkpoint: bytes) -> SqliteStore:
        """Make a new log with its first head.

        The file is finished beside `path` and then given its name: it is a whole log or not there.

        Raises:
            FileExistsError: If there is a file already.
        """
        path = Path(path)
        try:
            descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as error:  # say what the caller named, not the draft beside it
            raise type(error)(error.errno, error.strerror, str(path)) from None
        os.close(descriptor)
        try:
            with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.executescript(_SCHEMA)
                connection.execute("INSERT INTO head VALUES (0, ?, 0, ?)", (origin, checkpoint))
            Path(draft).chmod(0o644)
            os.link(draft, path)
        except FileExistsError as error:
            raise FileExistsError(error.errno, error.strerror, str(path)) from None
        finally:
            Path(draft).unlink()
        return cls(path)

    def info(self) -> StoreInfo:
        """Return what the store is."""
        return self._info

    def head(self) -> bytes:
        """Return the newest signed checkpoint."""
        with self._connect() as connection:
            row = connection.execute("SELECT size, checkpoint FROM head").fetchone()
        if row is None or not isinstance(row[1], bytes):
            raise LedgerError(f"{self._path}: it has no head: the log is damaged")
        size, note = row
        if note.split(b"\n")[1:2] != [b"%d" % size]:  # what `commit` goes by is not what is signed
            raise LedgerError(
                f"{self._path}: its head's size, {size}, is not its checkpoint's: "
                "the log is damaged"
            )
        return bytes(note)

    def read(self, name: str) -> bytes:
        """Return a resource, cut from a wider one where only that is left."""
        path, width = tiles.parse_path(name)
        with self._connect() as connection:
            row = connection.execute(
                "SELECT width, bytes FROM resource WHERE path = ?", (path,)
            ).fetchone()
        if row is None or row[0] < width:
            raise LedgerError(f"{self._path}: there is no {name}")
        return bytes(row[1]) if row[0] == width else tiles.cut(path, bytes(row[1]), width)

    def commit(
        self, expected_size: int, size: int, puts: Mapping[str, bytes], checkpoint: bytes
    ) -> None:
        """Write `puts` and the head in one transaction, if the head's size is as expected."""
        rows = [(*tiles.parse_path(name), data) for name, data in puts.items()]
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")  # one writer from here on; others wait
            try:
                row = connection.execute("SELECT size FROM head").fetchone()
                found = None if row is None else row[0]
                if found != expected_size:
                    raise StaleHeadError(
                        f"{self._path}: the log has {found} entries, not {expected_size}"
                    )
                connection.executemany("INSERT OR REPLACE INTO resource VALUES (?, ?, ?)", rows)
                connection.execute("UPDATE head SET size = ?, checkpoint = ?", (size, checkpoint))
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one call; what goes wrong becomes one of our errors."""
        try:
            address = f"{self._path.absolute().as_uri()}?mode=rw"
            with closing(
                sqlite3.connect(address, uri=True, isolation_level=None, timeout=BUSY_SECONDS)
            ) as connection:
                # EXTRA is FULL and one more flush, of the folder: without it the rollback journal
                # could come back after a power cut and undo an append that was acknowledged.
                connection.execute("PRAGMA synchronous = EXTRA")
                yield connection
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise FormatError(f"not a log: {error}", file=self._path) from error

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuse another program's database, and another version's."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise FormatError("not a log: a database of another program", file=self._path)
        if version != VERSION:
            raise FormatError(f"a log of version {version}; this reads {VERSION}", file=self._path)
