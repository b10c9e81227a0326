"""The house rules: public names, light imports, floors and wings, words for everything public."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from makers import write_model

import lineage
from lineage import cli, errors
from lineage.fingerprints.kernel import compiled

ROOT = Path(lineage.__file__).parent

PUBLIC = [
    "Claim",
    "Evidence",
    "Fingerprint",
    "Ledger",
    "LineageError",
    "LineageGraph",
    "Relation",
    "Split",
    "compare",
    "fingerprint",
    "infer",
    "read",
    "settle",
    "sign",
    "verify",
]


def modules() -> Iterator[ModuleType]:
    yield lineage
    for found in pkgutil.walk_packages([str(ROOT)], "lineage."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def loaded_by(code: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running `code`."""
    code = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_public_names_are_these_fifteen() -> None:
    assert lineage.__all__ == PUBLIC
    assert len(PUBLIC) == 15
    assert dir(lineage) == PUBLIC
    for name in PUBLIC:
        value = getattr(lineage, name)
        assert value.__doc__
        assert getattr(lineage, name) is value
    with pytest.raises(AttributeError, match="no attribute 'utils'"):
        lineage.utils  # type: ignore[attr-defined]  # noqa: B018


def test_importing_lineage_is_light() -> None:
    loaded = loaded_by("import lineage; lineage.__all__; dir(lineage)")
    heavy = {"numpy", "torch", "scipy", "networkx", "huggingface_hub", "rich", "click", "blake3"}
    assert loaded & heavy == set()
    assert {name for name in loaded if name.startswith("lineage.")} == set()


def test_the_command_line_loads_only_what_a_command_needs(tmp_path: Path) -> None:
    call = "import sys; from lineage.cli import run; assert run(sys.argv[1:]) == 0"
    loaded = loaded_by(call, "--version")
    assert loaded & {"numpy", "torch", "scipy", "networkx", "huggingface_hub", "rich"} == set()
    random = np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)
    path = write_model(tmp_path / "m.safetensors", {"w": random})
    loaded = loaded_by(call, "fingerprint", str(path), "-o", str(tmp_path / "m.lineage"))
    assert ("numpy" in loaded) == (compiled is None)
    unwanted = {"torch", "scipy", "networkx", "huggingface_hub", "rich", "cryptography", "yaml"}
    assert loaded & unwanted == set()
    loaded = loaded_by(call, "compare", str(path), str(tmp_path / "m.lineage"))
    assert loaded & {"torch", "networkx", "huggingface_hub", "rich", "cryptography"} == set()
    loaded = loaded_by(call, "key", str(tmp_path / "k.pem"))
    assert loaded & {"torch", "scipy", "networkx", "numpy", "rich"} == set()


def test_the_trust_wing_never_loads_numbers() -> None:
    loaded = loaded_by(
        "import lineage.claims, lineage.ledgers, lineage.manifests.proofs, lineage.settlement"
    )
    assert loaded & {"numpy", "scipy", "torch", "lineage.fingerprints", "lineage.datasets"} == set()


def test_floors_and_wings_hold() -> None:
    # A process of its own: the linter changes the path and keeps a cache.
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports; "
         "raise SystemExit(lint_imports(no_cache=True))"],
        cwd=ROOT.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_everything_public_is_explained() -> None:
    silent = []
    for module in modules():
        if not module.__doc__:
            silent.append(module.__name__)
        for name, thing in vars(module).items():
            is_own = getattr(thing, "__module__", None) == module.__name__
            if name.startswith("_") or not is_own:
                continue
            if inspect.isfunction(thing) and not thing.__doc__:
                silent.append(f"{module.__name__}.{name}")
            elif inspect.isclass(thing):
                # A dataclass without words of its own gets its signature for a docstring.
                if not thing.__doc__ or thing.__doc__.startswith(f"{name}("):
                    silent.append(f"{module.__name__}.{name}")
                silent += [
                    f"{module.__name__}.{name}.{part}"
                    for part, value in vars(thing).items()
                    if not part.startswith("_")
                    and (inspect.isfunction(value) or isinstance(value, property))
                    and not value.__doc__
                ]
    assert silent == []


def test_examples_in_docstrings_run() -> None:
    tried = 0
    for module in modules():
        failed, attempted = doctest.testmod(module)
        assert failed == 0, module.__name__
        tried += attempted
    assert tried >= 10


def test_there_is_no_drawer_for_everything() -> None:
    names = {path.stem for path in ROOT.rglob("*.py")}
    assert names & {"utils", "util", "helpers", "common", "misc", "models"} == set()


def test_no_module_imports_relatively_or_touches_global_seeds() -> None:
    found = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                found.append(f"{path.name}:{node.lineno}: relative import")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{path.name}:{node.lineno}: bare except")
            seeds = {"np.random.seed", "random.seed", "torch.manual_seed"}
            if isinstance(node, ast.Attribute) and ast.unparse(node) in seeds:
                found.append(f"{path.name}:{node.lineno}: global seed")
    assert found == []


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    assert errors.__doc__ is not None
    for name, thing in vars(errors).items():
        if inspect.isclass(thing) and thing.__module__ == errors.__name__:
            assert issubclass(thing, errors.LineageError)
            assert name.endswith("Error")
            assert f"{name} " in errors.__doc__ or f"{name}\n" in errors.__doc__


def test_every_command_is_where_the_table_says() -> None:
    for name, home in cli.COMMANDS.items():
        command = getattr(importlib.import_module(home), name.replace("-", "_"))
        assert command.name == name
        assert command.help
