"""Values that start fast are the dataclasses that everybody knows."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from makers import write_model

from lineage.artifacts import dialects
from lineage.fingerprints.parts import may_be_fused
from lineage.frozen import dataclass, field


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    label: str = field(default="", repr=False, compare=False)
    more: list[int] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


@dataclass(slots=True)
class Open:
    a: int
    b: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Loose:
    a: int


TWIN = dataclasses.make_dataclass(
    "Point",
    [
        ("x", "int"),
        ("y", "int", 2),
        ("label", "str", dataclasses.field(default="", repr=False, compare=False)),
        ("more", "list[int]", dataclasses.field(default_factory=list, compare=False)),
    ],
    frozen=True,
    slots=True,
)


def test_they_are_made_compared_and_shown_as_the_standard_librarys() -> None:
    for made in (Point, TWIN):
        one = made(1, label="a")
        assert repr(one) == "Point(x=1, y=2, more=[])"
        assert one == made(1) and hash(one) == hash(made(1))
        assert one != made(1, 3) and one != (1, 2)
        assert one.more is not made(1).more
        assert made.__match_args__ == ("x", "y", "label", "more")
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.x = 5
        with pytest.raises(dataclasses.FrozenInstanceError):
            del one.x
        with pytest.raises(TypeError):
            made()
    with pytest.raises(ValueError, match="negative"):
        Point(-1)
    assert Loose(1) != Loose(1)


def test_the_standard_librarys_functions_take_them() -> None:
    one = Point(1, label="a", more=[3])
    assert dataclasses.is_dataclass(one)
    assert dataclasses.replace(one, y=9) == Point(1, 9)
    assert dataclasses.replace(one, y=9).label == "a"
    assert dataclasses.asdict(one) == {"x": 1, "y": 2, "label": "a", "more": [3]}
    assert [f.name for f in dataclasses.fields(Point) if f.compare] == ["x", "y"]
    for again in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert again == one and again.label == "a" and again.more == [3]
    assert dataclasses.replace(Loose(1), a=2).a == 2


def test_what_is_not_frozen_can_be_changed_and_not_hashed() -> None:
    one = Open(1)
    one.a = 2
    assert one == Open(2)
    with pytest.raises(TypeError):
        hash(one)
    with pytest.raises(AttributeError):
        one.c = 1  # type: ignore[attr-defined]


def test_the_way_to_a_fingerprint_waits_for_none_of_these(tmp_path: Path) -> None:
    write_model(tmp_path / "m.safetensors", {"w": np.ones((40, 40), np.float32)})
    code = (
        "import sys; from lineage.cli import run;"
        f"assert run(['fingerprint', {str(tmp_path / 'm.safetensors')!r}, '--exact']) == 0;"
        "print(sorted({'dataclasses', 'inspect', 'typing', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_no_name_of_a_fused_tensor_is_passed_over() -> None:
    assert dialects._FUSED
    assert all(may_be_fused(f"layers.0.{word}.weight") for word in dialects._FUSED)
    assert not may_be_fused("model.layers.0.mlp.up_proj.weight\nlm_head.weight")
