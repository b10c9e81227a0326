"""The log: receipts, checkpoints, crashes, races and hostile stores."""

from __future__ import annotations

import base64
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from strategies import KEY, OTHER_KEY

from lineage import merkle
from lineage.errors import FormatError, LedgerError, ReceiptError, StaleHeadError
from lineage.ledgers import (
    Checkpoint,
    Ledger,
    LogStore,
    Receipt,
    SqliteStore,
    StoreInfo,
    open_checkpoint,
    tiles,
)
from lineage.ledgers.checkpoint import check_origin, note_key_id, open_note
from lineage.signing import Ed25519Key, PublicKey

ORIGIN = "example.com/log"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger.create(path, KEY, ORIGIN)


def entries(count: int, start: int = 0) -> list[bytes]:
    return [b"entry %d" % number for number in range(start, start + count)]


def leaf(entry: bytes) -> bytes:
    return merkle.leaf_hash(entry)


# Checkpoints


def test_a_published_note_opens() -> None:
    # The example of Go's golang.org/x/mod/sumdb/note package documentation.
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    signature = (
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ"
        "SNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    name, key_id, encoded = vkey.split("+", 2)
    key = PublicKey(base64.b64decode(encoded)[1:])
    assert note_key_id(name, key).hex() == key_id
    note = f"{text}\n— {name} {signature}\n".encode()
    assert open_note(note, name, key) == text
    with pytest.raises(ReceiptError, match="wrong"):
        open_note(note.replace(b"your", b"Your", 1), name, key)


HEAD = Checkpoint(ORIGIN, 7, bytes(range(32)))


def test_a_checkpoint_comes_back_from_its_note() -> None:
    assert open_checkpoint(HEAD.sign(KEY), KEY.public, ORIGIN) == HEAD


def test_a_checkpoint_of_another_key_or_log_is_refused() -> None:
    with pytest.raises(ReceiptError, match="not signed by the given key"):
        open_checkpoint(HEAD.sign(OTHER_KEY), KEY.public, ORIGIN)
    with pytest.raises(ReceiptError, match="is of the log"):
        open_checkpoint(HEAD.sign(KEY), KEY.public, "example.com/other")


def test_signatures_by_others_are_passed_over() -> None:
    other = HEAD.sign(OTHER_KEY).partition(b"\n\n")[2]
    witness = "— witness.example AAAAAAAA\n".encode()
    note = HEAD.sign(KEY) + other + witness
    assert open_checkpoint(note, KEY.public, ORIGIN) == HEAD


def test_extension_lines_are_signed_and_mean_nothing() -> None:
    text = HEAD.text() + "extension\n"
    signature = base64.b64encode(note_key_id(ORIGIN, KEY.public) + KEY.sign(text.encode()))
    note = f"{text}\n— {ORIGIN} {signature.decode()}\n".encode()
    assert open_checkpoint(note, KEY.public, ORIGIN) == HEAD


def signed(text: str) -> bytes:
    signature = base64.b64encode(note_key_id(ORIGIN, KEY.public) + KEY.sign(text.encode()))
    return f"{text}\n— {ORIGIN} {signature.decode()}\n".encode()


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"\xff\n\n",
        f"{ORIGIN}\n".encode(),
        HEAD.sign(KEY)[:-1],
        HEAD.sign(KEY) + b"x\n",
        HEAD.sign(KEY) + "— x !!!\n".encode(),
        HEAD.sign(KEY) + "— a+b AAAAAAAA\n".encode(),
        HEAD.sign(KEY) + "— a AAAA\n".encode(),
        HEAD.sign(KEY).replace(b"\n7\n", b"\n7\t\n"),
        HEAD.sign(KEY) + b"x" * 70_000,
        signed(f"{ORIGIN}\n07\n{ROOT}\n"),
        signed(f"{ORIGIN}\n-7\n{ROOT}\n"),
        signed(f"{ORIGIN}\n7\n{ROOT[:-4]}\n"),
        signed(f"{ORIGIN}\n7\nAAAA\n"),
        signed(f"{ORIGIN}\n7\n"),
        signed(f"{ORIGIN}\n7\n{ROOT}\n\nx\n"),
    ],
)
def test_what_is_no_checkpoint_is_refused(note: bytes) -> None:
    with pytest.raises(FormatError):
        open_checkpoint(note, KEY.public, ORIGIN)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "x" * 257, "a\u00a0b"])
def test_an_origin_fits_into_a_note(origin: str) -> None:
    with pytest.raises(FormatError, match="origin"):
        check_origin(origin)


# Tiles


def test_paths_are_the_published_ones() -> None:
    # Examples in the C2SP tlog-tiles specification.
    assert tiles.path(0, 1234067) == "tile/0/x001/x234/067"
    assert tiles.path(1, 0, 17) == "tile/1/000.p/17"
    assert tiles.path(tiles.ENTRIES, 5) == "tile/entries/005"


def test_a_tree_of_70000_has_the_published_tiles() -> None:
    # C2SP tlog-tiles, "Partial Tiles": 273 full tiles and widths 112, 17 and 1.
    tree = tiles.Tree(lambda name: b"", 70_000)
    assert [tree.width(0, 272), tree.width(0, 273)] == [256, 112]
    assert [tree.width(1, 0), tree.width(1, 1), tree.width(2, 0)] == [256, 17, 1]
    assert tree.width(3, 0) == 0


@pytest.mark.parametrize(
    "name", ["", "checkpoint", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/../x", "tile/0/0000"]
)
def test_other_names_are_no_paths(name: str) -> None:
    with pytest.raises(LedgerError, match="not a path"):
        tiles.parse_path(name)


def test_a_bundle_is_length_prefixed() -> None:
    assert tiles.join([b"ab", b""]) == b"\x00\x02ab\x00\x00"
    assert tiles.split("x", b"\x00\x02ab\x00\x00") == [b"ab", b""]
    for wrong in (b"\x00", b"\x00\x02a", b"\x00\x00" * 257):
        with pytest.raises(LedgerError, match="damaged"):
            tiles.split("x", wrong)


# The log


@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 256, 257, 511, 512, 513])
def test_a_log_has_the_root_of_its_entries(path: Path, ledger: Ledger, size: int) -> None:
    receipts = ledger.append(entries(size))
    head = ledger.audit()
    assert head == Checkpoint(ORIGIN, size, merkle.root([leaf(entry) for entry in entries(size)]))
    assert [receipt.index for receipt in receipts] == list(range(size))
    reader = Ledger.open(path, KEY.public)
    assert list(reader) == entries(size)
    assert reader.checkpoint() == head
    for index in {0, size // 2, size - 1} & set(range(size)):
        assert reader.get(index) == entries(size)[index]
        assert reader.find(leaf(entries(size)[index])) == index
        assert reader.receipt(index).verify(entries(size)[index], KEY.public, ORIGIN) == head


def test_one_by_one_or_at_once_is_the_same_log(tmp_path: Path) -> None:
    one = Ledger.create(tmp_path / "one", KEY, ORIGIN)
    many = Ledger.create(tmp_path / "many", KEY, ORIGIN)
    for entry in entries(20):
        one.append([entry])
    many.append(entries(20))
    assert one.signed_checkpoint() == many.signed_checkpoint()


def test_a_large_log_spans_three_levels(ledger: Ledger) -> None:
    ledger.append(entries(65_535))
    old = ledger.checkpoint()
    ledger.append(entries(3, start=65_535))
    leaves = [leaf(entry) for entry in entries(65_538)]
    assert ledger.audit().root == merkle.root(leaves)
    assert ledger.consistency_proof(65_535) == merkle.consistency_proof(leaves, 65_535)
    assert ledger.receipt(65_536).proof == merkle.inclusion_proof(leaves, 65_536)
    ledger.check_since(old)


def test_every_proof_is_the_tree_s(ledger: Ledger) -> None:
    leaves = [leaf(entry) for entry in entries(300)]
    ledger.append(entries(300))
    for index in range(0, 300, 7):
        assert ledger.receipt(index).proof == merkle.inclusion_proof(leaves, index)
        assert ledger.consistency_proof(index) == merkle.consistency_proof(leaves, index)


def test_an_entry_has_one_place(ledger: Ledger) -> None:
    first = ledger.append([b"a", b"b", b"a"])
    assert [receipt.index for receipt in first] == [0, 1, 0]
    again = ledger.append([b"b", b"c", b"a"])
    assert [receipt.index for receipt in again] == [1, 2, 0]
    assert len(ledger) == 3
    before = ledger.signed_checkpoint()
    assert ledger.append([b"a"])[0].checkpoint == before


def test_all_receipts_of_one_append_are_under_one_head(ledger: Ledger) -> None:
    assert len({receipt.checkpoint for receipt in ledger.append(entries(5))}) == 1


def test_entries_of_every_length_are_kept(ledger: Ledger) -> None:
    given = [b"", b"\x00", bytes(0xFFFF), os.urandom(60 * 1024)]
    ledger.append(given)
    assert [ledger.get(index) for index in range(4)] == given
    with pytest.raises(LedgerError, match="65536 bytes"):
        ledger.append([b"fine", bytes(0x10000)])
    assert len(ledger) == 4


def test_reading_needs_no_private_key(path: Path, ledger: Ledger) -> None:
    ledger.append([b"a"])
    reader = Ledger.open(path, KEY.public, ORIGIN)
    with pytest.raises(LedgerError, match="private key"):
        reader.append([b"b"])
    for index in (-1, 1):
        with pytest.raises(LedgerError, match="no entry"):
            reader.get(index)
        with pytest.raises(LedgerError, match="no entry"):
            reader.receipt(index)
    with pytest.raises(LedgerError, match="1 entries, not 2"):
        reader.consistency_proof(2)
    assert reader.find(leaf(b"b")) is None


def test_two_writers_share_one_log(path: Path, ledger: Ledger) -> None:
    other = Ledger.open(path, KEY)
    ledger.append([b"a"])
    assert other.append([b"b"])[0].index == 1
    assert ledger.append([b"b", b"c"])[1].index == 2
    assert list(Ledger.open(path, KEY.public)) == [b"a", b"b", b"c"]


def test_the_wrong_key_or_name_opens_nothing(path: Path, ledger: Ledger) -> None:
    with pytest.raises(ReceiptError, match="not signed"):
        Ledger.open(path, OTHER_KEY)
    with pytest.raises(ReceiptError, match="is of the log"):
        Ledger.open(path, KEY, "example.com/other")


def test_what_is_no_log_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello " * 1000)
    with sqlite3.connect(tmp_path / "database") as connection:
        connection.execute("CREATE TABLE head (only INTEGER)")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    for name in ("empty", "text", "database"):
        with pytest.raises(FormatError, match=name):
            Ledger.open(tmp_path / name, KEY)
    with pytest.raises((FormatError, LedgerError), match=str(tmp_path)):
        Ledger.open(tmp_path, KEY)
    with pytest.raises(FileNotFoundError):
        Ledger.open(tmp_path / "missing", KEY)
    assert not (tmp_path / "missing").exists()


def test_a_log_of_another_version_is_refused(path: Path, ledger: Ledger) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(FormatError, match="version 2"):
        Ledger.open(path, KEY)


def test_a_log_is_never_overwritten(path: Path, ledger: Ledger) -> None:
    ledger.append([b"a"])
    with pytest.raises(FileExistsError):
        Ledger.create(path, KEY, ORIGIN)
    assert list(Ledger.open(path, KEY)) == [b"a"]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_commit_compares_before_it_swaps(path: Path, ledger: Ledger) -> None:
    store = SqliteStore(path)
    before = store.head()
    with pytest.raises(StaleHeadError):
        store.commit(1, 2, {tiles.path(0, 0, 2): bytes(64)}, b"head")
    assert store.head() == before
    with pytest.raises(LedgerError, match="there is no"):
        store.read(tiles.path(0, 0, 2))


def test_an_older_width_is_still_there(path: Path, ledger: Ledger) -> None:
    ledger.append(entries(3))
    old = tiles.Tree(SqliteStore(path).read, 3)
    ledger.append(entries(300))
    assert old.bundle(0) == entries(3)
    assert old.root() == merkle.root([leaf(entry) for entry in entries(3)])
    with pytest.raises(LedgerError, match="there is no"):
        SqliteStore(path).read(tiles.path(0, 1, 100))


# Receipts


def test_a_receipt_needs_no_log(path: Path, ledger: Ledger) -> None:
    data = ledger.append(entries(5))[3].to_bytes()
    path.unlink()
    receipt = Receipt.from_bytes(data)
    assert receipt.to_bytes() == data
    assert receipt.claimed_origin == ORIGIN
    assert receipt.verify(b"entry 3", KEY.public, ORIGIN).size == 5


def test_a_receipt_of_another_entry_log_or_key_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    receipt = ledger.append(entries(5))[3]
    with pytest.raises(ReceiptError):
        receipt.verify(b"entry 2", KEY.public, ORIGIN)
    with pytest.raises(ReceiptError):
        receipt.verify(b"entry 3", KEY.public, "example.com/other")
    with pytest.raises(ReceiptError):
        receipt.verify(b"entry 3", OTHER_KEY.public, ORIGIN)
    other = Ledger.create(tmp_path / "other", OTHER_KEY, ORIGIN).append(entries(5))[3]
    with pytest.raises(ReceiptError):
        other.verify(b"entry 3", KEY.public, ORIGIN)


def test_extra_lines_are_kept_and_not_trusted(ledger: Ledger) -> None:
    plain = ledger.append([b"a"])[0]
    extra = Receipt(plain.index, plain.proof, plain.checkpoint, b"context")
    assert Receipt.from_bytes(extra.to_bytes()) == extra
    extra.verify(b"a", KEY.public, ORIGIN)


NOTE = HEAD.sign(KEY)
LINE = base64.b64encode(bytes(32)) + b"\n"
TOP = b"c2sp.org/tlog-proof@v1\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        TOP,
        b"c2sp.org/tlog-proof@v2\nindex 0\n\n" + NOTE,
        TOP + b"\n" + NOTE,
        TOP + b"index 00\n\n" + NOTE,
        TOP + b"index -1\n\n" + NOTE,
        TOP + b"index x\n\n" + NOTE,
        TOP + b"extra\nindex 0\n\n" + NOTE,
        TOP + b"extra !\nindex 0\n\n" + NOTE,
        TOP + b"index 0\nAAAA\n\n" + NOTE,
        TOP + b"index 0\n" + LINE * 65 + b"\n" + NOTE,
        TOP + b"index 0\n\xff\n\n" + NOTE,
        TOP + b"index 0\n\n" + NOTE + b"x" * 300_000,
    ],
)
def test_what_is_no_receipt_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"r\.receipt"):
        Receipt.from_bytes(data, file="r.receipt")


# An auditor


def test_a_pinned_head_holds_the_log_to_its_word(tmp_path: Path, ledger: Ledger) -> None:
    ledger.append(entries(5))
    pinned = open_checkpoint(ledger.signed_checkpoint(), KEY.public, ORIGIN)
    ledger.append(entries(9))
    assert ledger.check_since(pinned).size == 9
    fork = Ledger.create(tmp_path / "fork", KEY, ORIGIN)
    fork.append(entries(9, start=1))
    with pytest.raises(ReceiptError, match="older root"):
        fork.check_since(pinned)
    short = Ledger.create(tmp_path / "short", KEY, ORIGIN)
    with pytest.raises(ReceiptError, match="0 entries"):
        short.check_since(pinned)


class Lying:
    """A store that answers from another one, until told to lie."""

    def __init__(self, store: LogStore) -> None:
        self.store = store
        self.heads: list[bytes] = []
        self.lies: dict[str, bytes] = {}

    def info(self) -> StoreInfo:
        return self.store.info()

    def head(self) -> bytes:
        return self.heads.pop() if self.heads else self.store.head()

    def read(self, name: str) -> bytes:
        return self.lies.get(name) or self.store.read(name)

    def commit(
        self, expected_size: int, size: int, puts: Mapping[str, bytes], checkpoint: bytes
    ) -> None:
        self.store.commit(expected_size, size, puts, checkpoint)


@pytest.fixture
def lying(path: Path, ledger: Ledger) -> Lying:
    ledger.append(entries(300))
    return Lying(SqliteStore(path))


def test_a_store_that_goes_back_is_caught(lying: Lying, ledger: Ledger) -> None:
    reader = Ledger(lying, KEY.public, ORIGIN)
    lying.heads = [Checkpoint(ORIGIN, 299, bytes(32)).sign(KEY)]
    with pytest.raises(ReceiptError, match="went back"):
        reader.checkpoint()


def test_a_store_with_two_histories_is_caught(lying: Lying) -> None:
    reader = Ledger(lying, KEY.public, ORIGIN)
    lying.heads = [Checkpoint(ORIGIN, 300, bytes(32)).sign(KEY)]
    with pytest.raises(ReceiptError, match="two histories"):
        reader.checkpoint()


def test_a_store_with_another_key_s_head_is_caught(lying: Lying) -> None:
    reader = Ledger(lying, KEY.public, ORIGIN)
    lying.heads = [Checkpoint(ORIGIN, 301, bytes(32)).sign(OTHER_KEY)]
    with pytest.raises(ReceiptError, match="not signed"):
        reader.checkpoint()


@pytest.mark.parametrize(
    "name", ["tile/entries/000", "tile/entries/001.p/44", "tile/0/000", "tile/1/000.p/1"]
)
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_store_is_caught(lying: Lying, name: str, damage: str) -> None:
    good = lying.store.read(name)
    lying.lies[name] = good[:-1] if damage == "cut" else good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises((LedgerError, ReceiptError)):
        Ledger(lying, KEY.public, ORIGIN).audit()


def test_entries_that_are_not_what_was_signed_are_caught(lying: Lying) -> None:
    signed_elsewhere = Checkpoint(ORIGIN, 300, bytes(32)).sign(KEY)
    lying.heads = [signed_elsewhere, signed_elsewhere]
    with pytest.raises(ReceiptError, match="do not hash to the root"):
        Ledger(lying, KEY.public, ORIGIN).audit()


def test_a_wrong_entry_or_leaf_is_not_handed_out(lying: Lying) -> None:
    lying.lies["tile/entries/000"] = tiles.join([b"lie", *entries(255, start=1)])
    reader = Ledger(lying, KEY.public, ORIGIN)
    with pytest.raises(ReceiptError):
        reader.get(0)
    lying.lies["tile/0/000"] = bytes(32) + lying.store.read("tile/0/000")[32:]
    with pytest.raises(ReceiptError):
        Ledger(lying, KEY.public, ORIGIN).receipt(0)


def test_nothing_is_signed_on_top_of_damage(lying: Lying) -> None:
    lying.lies["tile/1/000.p/1"] = bytes(32)
    before = lying.store.head()
    with pytest.raises(LedgerError, match="damaged"):
        Ledger(lying, KEY, ORIGIN).append([b"new"])
    assert lying.store.head() == before


def test_nothing_is_signed_on_top_of_damaged_entries(lying: Lying) -> None:
    name = "tile/entries/001.p/44"
    good = lying.store.read(name)
    lying.lies[name] = good[:-1] + bytes([good[-1] ^ 1])
    before = lying.store.head()
    with pytest.raises(LedgerError, match="damaged"):
        Ledger(lying, KEY, ORIGIN).append([b"new"])
    assert lying.store.head() == before


def test_a_log_without_a_head_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    Ledger.create(path, KEY, ORIGIN)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM head")
    connection.close()
    with pytest.raises(LedgerError, match="no head"):
        Ledger.open(path, KEY)


def test_a_head_whose_size_is_not_its_checkpoint_s_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    Ledger.create(path, KEY, ORIGIN).append(entries(3))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE head SET size = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="size, 99, is not its checkpoint's: the log is damaged"):
        Ledger.open(path, KEY).append([b"new"])
    assert path.read_bytes() == before


def test_a_log_in_no_folder_is_said_by_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "no" / "log.sqlite"
    with pytest.raises(FileNotFoundError) as caught:
        Ledger.create(path, KEY, ORIGIN)
    assert caught.value.filename == str(path)


# Crashes and races

WRITER = """
import sys
from lineage.ledgers import Ledger
from lineage.signing import Ed25519Key
path, key, name = sys.argv[1:4]
ledger = Ledger.open(path, Ed25519Key.load(key))
number = 0
while number < int(sys.argv[4]):
    batch = [b"%s %d" % (name.encode(), number + at) + bytes(2000) for at in range(3)]
    ledger.append(batch)
    number += 3
    print(number, flush=True)
"""


def writer(path: Path, key: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(key), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.011, 0.029, 0.05])
def test_a_killed_writer_loses_nothing_acknowledged(
    tmp_path: Path, path: Path, ledger: Ledger, delay: float
) -> None:
    KEY.save(tmp_path / "key")
    process = writer(path, tmp_path / "key", "w", 10**9)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    acknowledged = max([3, *map(int, rest.split("\n")[:-1])])
    after = Ledger.open(path, KEY)
    head = after.audit()
    assert head.size >= acknowledged
    assert head.size % 3 == 0, "a batch was torn"
    assert after.append([b"life goes on"])[0].index == head.size
    after.audit()


def test_processes_append_at_the_same_time(tmp_path: Path, path: Path, ledger: Ledger) -> None:
    KEY.save(tmp_path / "key")
    names = ["a", "b", "same", "same"]
    processes = [writer(path, tmp_path / "key", name, 30) for name in names]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    found = list(ledger)
    assert ledger.audit().size == 90
    found = list(ledger)
    assert len(set(found)) == 90
    for name in set(names):
        mine = [entry for entry in found if entry.startswith(name.encode() + b" ")]
        assert len(mine) == 30


def test_a_writer_that_is_always_late_gives_up(path: Path, ledger: Ledger) -> None:
    class Late(Lying):
        def commit(self, *_: object) -> None:  # type: ignore[override]
            raise StaleHeadError("late")

    with pytest.raises(StaleHeadError, match="faster"):
        Ledger(Late(SqliteStore(path)), KEY, ORIGIN).append([b"a"])


def test_a_log_can_be_used_from_many_threads(path: Path, ledger: Ledger) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def add(number: int) -> int:
        return Ledger.open(path, KEY).append([b"%d" % number])[0].index

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(add, range(12))) == list(range(12))


def test_a_key_made_now_works_like_one_from_a_file(path: Path) -> None:
    key = Ed25519Key.generate()
    receipt = Ledger.create(path, key, ORIGIN).append([b"a"])[0]
    receipt.verify(b"a", key.public, ORIGIN)
