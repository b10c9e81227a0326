"""Mapped windows of files that may be cut short meanwhile: an error, where it would be a signal.

To read a page of a mapping that its file no longer reaches, or that the disk does not give, raises
SIGBUS, which ends the process. `_guard.c` catches it within windows that are watched, and only
there, by a handler that the first window installs; any other SIGBUS goes to whatever handled it
before. What is not covered:

- Where there was no compiler, and on Windows, mapping goes on without it.
- Who came to handle SIGBUS after the first window (`faulthandler.enable()`, `signal.signal`) is
  asked first and left alone; then a file cut short ends the process as ever.
- More than 1,024 windows at once: those above are not watched.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self, final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


@lru_cache(maxsize=1)
def compiled() -> Any:
    """Return the compiled module (`_guard.c` documents its functions), or None."""
    try:
        return import_module("lineage.artifacts._guard")
    except ImportError:
        return None


@final
class Guard:
    """Watches a mapped window while a `with` lasts, which ends before the window is unmapped.

    Whatever was read of a window that was cut is of no use: leaving the `with` then calls `fail`,
    which raises, also in place of an error that came of what was read.

    Args:
        window: All bytes of the mapping.
        fail: Raises what a window that was cut means.
    """

    __slots__ = ("_fail", "_watch", "_window")

    def __init__(self, window: memoryview, fail: Callable[[], None]) -> None:
        self._window, self._fail = window, fail
        self._watch: Any = None

    def __enter__(self) -> Self:
        if (found := compiled()) is not None:
            self._watch = found.watch(self._window)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        watch, self._watch = self._watch, None
        if watch is None or not compiled().leave(watch):
            return
        if kind is None or issubclass(kind, Exception):  # and not while the process is asked to end
            self._fail()
