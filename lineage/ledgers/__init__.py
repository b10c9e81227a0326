"""Append-only logs of byte strings, and receipts that prove what they hold.

A log does not know what a claim is. `Ledger.append` gives a `Receipt` for each entry, which anyone
can check without the log, knowing only its public key and its origin.
"""

from __future__ import annotations

from lineage.ledgers.base import LogStore, StoreInfo
from lineage.ledgers.checkpoint import Checkpoint, open_checkpoint
from lineage.ledgers.log import Ledger
from lineage.ledgers.receipt import Receipt
from lineage.ledgers.sqlite import SqliteStore

__all__ = [
    "Checkpoint",
    "Ledger",
    "LogStore",
    "Receipt",
    "SqliteStore",
    "StoreInfo",
    "open_checkpoint",
]
