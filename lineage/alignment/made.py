"""A tensor that is made when it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass
class Made:
    """A tensor that is computed when it is read, and forgotten when its last bytes were."""

    make: Callable[[], NDArray[np.float32]]
    _held: memoryview | None = None
    _lock: Lock = field(default_factory=Lock)

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:  # noqa: ARG002
        """Return a view of the tensor's bytes; see `artifacts.base.Source`."""
        with self._lock:
            if self._held is None:
                array = np.ascontiguousarray(self.make(), "<f4").reshape(-1)
                self._held = memoryview(array.view(np.uint8).data)
            held = self._held
            if start + size >= len(held):
                self._held = None
        return held[start : start + size]
