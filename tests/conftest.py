"""How the tests run: without torch those that need it are left out, and the report says so."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pytest

# Matrices here are small: threads of a BLAS only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A mistyped path may read as a repository's name: no test asks a real hub for it. Both are read
# when huggingface_hub is imported; nobody listens at the discard port.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

settings.register_profile(
    "lineage", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lineage")


def pytest_report_header() -> str:
    """Say whether torch is here."""
    return "torch: here" if find_spec("torch") else "torch: not here, its tests are left out"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `torch` where there is no torch, and slow ones unless asked for."""
    wanted = config.getoption("markexpr", "")
    left_out = [
        item
        for item in items
        if (item.get_closest_marker("torch") and not find_spec("torch"))
        or (item.get_closest_marker("slow") and "slow" not in wanted)
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
