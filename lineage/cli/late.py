"""What a fingerprint need not wait for: modules that it never uses, and the end of its values.

`dataclasses` imports `inspect`, which brings Python's own parser; `pathlib` imports what knows the
addresses of networks. Both are waited for before the first byte is hashed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any

NAMES = ("copy", "inspect", "ipaddress")
"""Modules of the standard library, none of which says anything by being imported."""

_lock = Lock()
_held: list[object] = []


class _Late(ModuleType):
    """Stands for a module until it is used, and then hands on what is asked for."""

    def __getattr__(self, name: str) -> Any:
        with _lock:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def put_off() -> None:
    """Put off those that are not there yet, in a process of our own."""
    for name in NAMES:
        sys.modules.setdefault(name, _Late(name))


def hold(value: object) -> None:
    """Keep a value until the next is held, or the process ends, which takes nothing apart."""
    _held[:] = [value]
