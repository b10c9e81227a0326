"""Modules put off are the real ones as soon as something of them is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from makers import write_model

import lineage
from lineage.fingerprints.kernel import compiled

PUT_OFF = """
import sys
from threading import Barrier, Thread
before = set(sys.modules)
from lineage.cli import late
late.put_off()
import ast, copy, inspect, ipaddress
assert type(ast) is type(sys), "not one that is put off"
late.put_off()  # twice is once
stands = [sys.modules[name] for name in late.NAMES if name not in before]
print(len(stands), all(type(one) is not type(sys) for one in stands))

found, together = [], Barrier(8)
def use():
    together.wait()
    found.append(ipaddress.ip_address)
threads = [Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
real = sys.modules["ipaddress"]
print(type(real) is type(sys), len(found), {one is real.ip_address for one in found})

from inspect import signature
import inspect as again
print(again is sys.modules["inspect"] is not inspect, inspect.signature is signature)
print(copy.deepcopy([1]), real is sys.modules["ipaddress"])
try:
    inspect.nothing
except AttributeError as error:
    print(error)
"""


def test_what_is_put_off_is_there_when_it_is_used() -> None:
    path = [str(Path(lineage.__file__).parents[1]), *sys.path]  # an editable install needs `site`
    code = f"import sys; sys.path[:0] = {path!r}\n{PUT_OFF}"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "3 True",
        "True 8 {True}",
        "True True",
        "[1] True",
        "module 'inspect' has no attribute 'nothing'",
    ]


@pytest.mark.skipif(compiled is None, reason="NumPy uses what is put off")
def test_a_plain_fingerprint_never_uses_it(tmp_path: Path) -> None:
    random = np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)
    path = write_model(tmp_path / "m.safetensors", {"w": random})
    command = [sys.executable, "-X", "importtime", "-m", "lineage", "fingerprint", str(path)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "m.lineage")], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "lineage.fingerprints.measure" in loaded
    assert loaded & {"inspect", "ast", "dis"} == set()  # what an editable install loads stays


def test_what_is_there_already_is_left_alone() -> None:
    code = (
        "import inspect, sys; from lineage.cli import late; late.put_off();"
        "print(sys.modules['inspect'] is inspect)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
