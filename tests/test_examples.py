"""The examples are run as a reader would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.torch] if "torch" in path.stem else [])
        for path in EXAMPLES
    ],
)
def test_example_trains_and_its_claim_holds(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "claim: finetune of" in done.stdout
    confirmed = "True" if path.stem.startswith("01") else "False"
    assert done.stdout.rstrip().endswith(f"confirmed by weights: {confirmed}")


def test_examples_are_short() -> None:
    assert EXAMPLES
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) <= 60, path.name
