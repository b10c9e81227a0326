"""Whether the compiled inner loops are here, and which of them read what.

`_kernel.c` is compiled where there is a compiler; without it `folding.py` does the same in NumPy.
`LINEAGE_KERNEL=numpy` asks for that even where the other is there.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any


def _found() -> Any:
    if os.environ.get("LINEAGE_KERNEL") == "numpy":
        return None
    try:
        return import_module("lineage.fingerprints._kernel")
    except ImportError:
        return None


compiled: Any = _found()
"""The compiled module (`_kernel.c` and `loops/` say what its functions do), or None."""

KINDS = {
    "F32": 0, "BF16": 1, "F16": 2, "F64": 3, "I8": 4, "U8": 5, "F8_E4M3": 6, "F8_E5M2": 7,
    "Q4_0": 8, "Q4_1": 9, "Q8_0": 10, "Q4_K": 11, "Q5_K": 12, "Q6_K": 13,
}  # fmt: skip
"""The dtypes the compiled loops read, as their `enum kind` and `enum block`."""

NARROWED = {"F32", "BF16", "F16", "F8_E4M3"}
"""Those that they round to narrower ones."""
