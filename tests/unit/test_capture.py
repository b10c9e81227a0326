"""Three lines around a training loop leave a signed claim, or nothing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from makers import Array, small_model, write_model
from strategies import KEY, POLICY

from lineage import fingerprint, verify
from lineage.capture import Derivation, derivation
from lineage.claims import Dataset, Split
from lineage.errors import ContradictionError, FormatError
from lineage.relation import Relation
from lineage.signing import Envelope


def model_of(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"{n}.weight": rng.normal(size=(96, 80)).astype(np.float32) for n in range(3)}


def train(model: dict[str, Array], size: float = 0.2) -> None:
    rng = np.random.default_rng(99)
    for weights in model.values():
        weights += (size * rng.normal(size=weights.shape)).astype(np.float32)


def test_training_leaves_a_claim_that_names_the_base_by_its_digest(tmp_path: Path) -> None:
    model = model_of()
    base = fingerprint(model)
    kept = {name: weights.copy() for name, weights in model.items()}
    out = tmp_path / "child.claim.json"
    with derivation(model, key=KEY, out=out, name="child", base_name="parent") as run:
        assert isinstance(run, Derivation)
        assert run.base.root == base.root
        assert run.child is run.claim is run.envelope is None
        assert list(tmp_path.iterdir()) == []
        train(model)
    child = fingerprint(model)
    assert run.claim is not None
    assert run.child is not None
    assert run.child.root == run.claim.subject.root == child.root != base.root
    assert run.claim.subject.name == "child"
    (parent,) = run.claim.parents
    assert (parent.model.name, parent.model.root) == ("parent", base.root)
    assert parent.model.manifest_sha256 == base.manifest_sha256
    assert (parent.relation, parent.how) == (Relation.FINETUNE, "full")
    assert run.claim.splits == (Split(KEY.key_id, "trainer", Fraction(1)),)
    envelope = Envelope.from_bytes(out.read_bytes())
    assert envelope == run.envelope
    found = verify(envelope, POLICY, weights=model, parents=[kept])
    assert found.confirmed == {base.root}
    assert list(tmp_path.iterdir()) == [out]


def test_the_base_may_be_named_where_it_is_not_the_model(tmp_path: Path) -> None:
    model = model_of()
    path = write_model(tmp_path / "base.safetensors", model)
    train(model, 0.05)
    with derivation(model, key=KEY, base=path) as run:
        train(model)
    assert run.claim is not None
    assert run.claim.parents[0].model.root == fingerprint(path).root
    with derivation(model, key=KEY, base=fingerprint(path)) as run:
        train(model)
    assert run.base.root == fingerprint(path).root


def test_what_is_declared_is_in_the_claim() -> None:
    model = model_of()
    data = (Dataset("texts", "ab" * 32),)
    splits = (Split("ann", "trainer", Fraction(3, 4)), Split("bob", "labeller", Fraction(1, 4)))
    with derivation(model, key=KEY, splits=splits, rate=Fraction(1, 10), datasets=data) as run:
        train(model)
    assert run.claim is not None
    assert (run.claim.splits, run.claim.rate, run.claim.datasets) == (splits, Fraction(1, 10), data)


def test_a_key_is_loaded_before_training_begins(tmp_path: Path) -> None:
    KEY.save(tmp_path / "maker.pem")
    model = model_of()
    with derivation(model, key=tmp_path / "maker.pem") as run:
        train(model)
    assert run.envelope is not None
    assert verify(run.envelope, POLICY).key_ids == (KEY.key_id,)
    (tmp_path / "broken.pem").write_text("no key")
    for path, error in (("gone.pem", OSError), ("broken.pem", FormatError)):
        with pytest.raises(error), derivation(model, key=str(tmp_path / path)):
            pytest.fail("the block was entered without a key")


def test_an_exception_in_the_block_writes_and_signs_nothing(tmp_path: Path) -> None:
    model = model_of()
    out = tmp_path / "child.claim.json"
    with (
        pytest.raises(ZeroDivisionError, match="training broke"),
        derivation(model, key=KEY, out=out) as run,
    ):
        train(model)
        raise ZeroDivisionError("training broke")
    assert run.child is run.claim is run.envelope is None
    assert list(tmp_path.iterdir()) == []


def test_other_weights_are_no_derivation(tmp_path: Path) -> None:
    model = model_of()
    out = tmp_path / "child.claim.json"
    with (
        pytest.raises(ContradictionError, match="not derived from 'base'"),
        derivation(model, key=KEY, out=out),
    ):
        for name, weights in model_of(7).items():
            model[name][:] = weights
    assert list(tmp_path.iterdir()) == []


def test_training_that_changes_nothing_is_told_so() -> None:
    nothing = pytest.raises(ContradictionError, match="byte for byte")
    with nothing, derivation(model_of(), key=KEY):
        pass


def test_a_claim_is_replaced_whole_and_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    model = model_of()
    out = tmp_path / "child.claim.json"
    out.write_text("an older claim")
    with derivation(model, key=KEY, out=out):
        train(model)
    Envelope.from_bytes(out.read_bytes())
    assert out.stat().st_mode & 0o777 == 0o644
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="folder"), derivation(model, key=KEY, out=folder):
        train(model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["child.claim.json", "folder"]


def test_small_models_are_claimed_though_nothing_is_measured() -> None:
    model = {"b": np.zeros(5, np.float32)}
    with derivation(model, key=KEY) as run:
        model["b"] += 1
    assert run.claim is not None
    assert run.claim.parents[0].relation is Relation.FINETUNE
    assert run.claim.findings == ()


def test_a_model_that_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(TypeError), derivation(3, key=KEY):
        pytest.fail("the block was entered without a model")
    with pytest.raises(FormatError), derivation({}, key=KEY):
        pytest.fail("the block was entered without a model")
    assert small_model()


@pytest.mark.torch
def test_a_torch_module_is_trained_in_place(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 48))
    base = fingerprint(model).root
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    inputs, targets = torch.randn(128, 64), torch.randn(128, 48)
    with derivation(model, key=KEY, out=tmp_path / "c.json") as run:
        for _ in range(20):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
    assert run.claim is not None
    assert run.claim.parents[0].model.root == base
    assert run.claim.subject.root == fingerprint(model.state_dict()).root != base
    assert all(parameter.requires_grad for parameter in model.parameters())
