"""Recurrent networks in other coordinates: signs, gates, tokens, turned embeddings, ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lineage import infer
from lineage.alignment import ChainAlignment, align, aligned, described, solve
from lineage.alignment.certificate import check, from_bytes, to_bytes
from lineage.artifacts import read
from lineage.artifacts.tokens import tokens_of
from lineage.cli import run
from lineage.errors import ArchitectureError, FormatError
from lineage.graph.elsewhere import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[Any]]
    Move = Callable[[Weights, np.random.Generator], Weights]

WORDS, INNER, UNITS, GATES = 64, 24, 40, 4
CANDIDATE = 2
"""Of torch's gates of an LSTM: input, forget, candidate, output."""

ONNX = [0, 3, 1, 2]
"""Input, output, forget, candidate."""

READERS = {"lstm_l0": "lstm.weight_ih_l1", "lstm_l1": "project.weight"}


def model(seed: int) -> Weights:
    """Return a language model: an embedding, two LSTM layers, a hidden layer, an output."""
    rng = np.random.default_rng(seed)
    found = {"embedding.weight": rng.normal(0, 1, (WORDS, INNER))}
    for number, into in enumerate((INNER, UNITS)):
        for kind, width in (("ih", into), ("hh", UNITS)):
            found[f"lstm.weight_{kind}_l{number}"] = rng.normal(0, 0.4, (GATES * UNITS, width))
            found[f"lstm.bias_{kind}_l{number}"] = rng.normal(0, 0.4, GATES * UNITS)
    found["project.weight"] = rng.normal(0, 0.4, (UNITS, UNITS))
    found["project.bias"] = rng.normal(0, 0.4, UNITS)
    found["decoder.weight"] = rng.normal(0, 1, (WORDS, UNITS))
    found["decoder.bias"] = rng.normal(0, 1, WORDS)
    return {name: values.astype("f4") for name, values in found.items()}


def computed(weights: Weights, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Return what a model of torch's names says after each token, shape (tokens, words)."""
    wide = {name: values.astype(np.float64) for name, values in weights.items()}
    rows = wide["embedding.weight"][list(tokens)]
    for number in (0, 1):
        hidden, cell, told = np.zeros(UNITS), np.zeros(UNITS), []
        for row in rows:
            sums = [
                wide[f"lstm.weight_{kind}_l{number}"] @ of + wide[f"lstm.bias_{kind}_l{number}"]
                for kind, of in (("ih", row), ("hh", hidden))
            ]
            put, keep, new, show = (sums[0] + sums[1]).reshape(GATES, UNITS)
            cell = cell / (1 + np.exp(-keep)) + np.tanh(new) / (1 + np.exp(-put))
            hidden = np.tanh(cell) / (1 + np.exp(-show))
            told.append(hidden)
        rows = np.array(told)
    rows = np.tanh(rows @ wide["project.weight"].T + wide["project.bias"])
    found: NDArray[np.float64] = rows @ wide["decoder.weight"].T + wide["decoder.bias"]
    return found


def flipped(weights: Weights, rng: np.random.Generator) -> Weights:
    """Change the signs of half of the cells of both layers, and of the hidden units."""
    found = {name: values.copy() for name, values in weights.items()}
    for number, reader in enumerate(READERS.values()):
        signs = rng.choice([-1.0, 1.0], UNITS).astype("f4")
        for name in [name for name in found if name.endswith(f"_l{number}")]:
            gates = found[name].reshape(GATES, UNITS, -1)
            gates[CANDIDATE] *= signs[:, None]
        found[f"lstm.weight_hh_l{number}"] *= signs
        found[reader] *= signs
    signs = rng.choice([-1.0, 1.0], UNITS).astype("f4")
    found["project.weight"] *= signs[:, None]
    found["project.bias"] *= signs
    found["decoder.weight"] *= signs
    return found


def permuted(weights: Weights, rng: np.random.Generator) -> Weights:
    """Permute the cells of both layers and the hidden units."""
    found = dict(weights)
    for number, reader in enumerate(READERS.values()):
        order = rng.permutation(UNITS)
        for name in [name for name in found if name.endswith(f"_l{number}")]:
            gates = found[name].reshape(GATES, UNITS, -1)[:, order]
            found[name] = gates.reshape(found[name].shape)
        for name in (f"lstm.weight_hh_l{number}", reader):
            found[name] = found[name][:, order]
    order = rng.permutation(UNITS)
    found["project.weight"] = found["project.weight"][order]
    found["project.bias"] = found["project.bias"][order]
    found["decoder.weight"] = found["decoder.weight"][:, order]
    return found


def turned(weights: Weights, rng: np.random.Generator) -> Weights:
    """Turn and stretch the embedding, which the first layer undoes."""
    left, right = (np.linalg.qr(rng.normal(size=(INNER, INNER)))[0] for _ in range(2))
    turn = left * np.exp2(rng.uniform(-1, 1, INNER)) @ right
    found = dict(weights)
    found["embedding.weight"] = (weights["embedding.weight"] @ turn).astype("f4")
    back = np.linalg.inv(turn).T
    found["lstm.weight_ih_l0"] = (weights["lstm.weight_ih_l0"] @ back).astype("f4")
    return found


def everything(weights: Weights, rng: np.random.Generator) -> Weights:
    return turned(flipped(permuted(weights, rng), rng), rng)


def reordered(weights: Weights, order: Sequence[int]) -> Weights:
    """Put gates in another order."""
    return {
        name: values.reshape(GATES, UNITS, -1)[list(order)].reshape(values.shape)
        if name.startswith("lstm.")
        else values
        for name, values in weights.items()
    }


def packed(weights: Weights, rng: np.random.Generator) -> Weights:
    """Store recurrent layers as ONNX does."""
    moved = reordered(weights, ONNX)
    found = {name: values for name, values in moved.items() if not name.startswith("lstm.")}
    for number in (0, 1):
        for kind, letter in (("ih", "W"), ("hh", "R")):
            found[f"rnn.{number}.{letter}"] = moved[f"lstm.weight_{kind}_l{number}"][None]
        both = [moved[f"lstm.bias_{kind}_l{number}"] for kind in ("ih", "hh")]
        found[f"rnn.{number}.B"] = np.concatenate(both)[None]
    return found


def packed_everything(weights: Weights, rng: np.random.Generator) -> Weights:
    return packed(everything(weights, rng), rng)


DISGUISES = [
    pytest.param(flipped, {"rescaled"}, id="signs"),
    pytest.param(turned, {"rotated"}, id="turned"),
    pytest.param(permuted, {"permuted"}, id="cells"),
    pytest.param(everything, {"rotated", "permuted", "rescaled"}, id="everything"),
    pytest.param(packed, {"permuted"}, id="onnx"),
    pytest.param(packed_everything, {"rotated", "permuted", "rescaled"}, id="everything-onnx"),
]


def noisy(weights: Weights, share: float, seed: int = 99) -> Weights:
    """Return weights as if trained on: changed by a share of their spread."""
    rng = np.random.default_rng(seed)
    return {
        name: (w + share * w.std() * rng.normal(size=w.shape)).astype("f4")
        for name, w in weights.items()
    }


def written(a: Any, b: Any, found: Any) -> Weights:
    """Return b in a's coordinates as arrays."""
    one, other = (described(read(w).items, name="w") for w in (a, b))
    arrays = {}
    for item in aligned(one, other, found).items:
        raw = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
        arrays[item.name] = np.frombuffer(bytes(raw), "<f4").reshape(item.shape)
    return arrays


def off(found: Weights, to: Weights) -> float:
    """Return the largest difference of a tensor as a share of its norm."""
    assert set(found) == set(to)
    return float(max(np.linalg.norm(found[n] - to[n]) / np.linalg.norm(to[n]) for n in to))


@pytest.mark.parametrize(("move", "how"), DISGUISES)
def test_a_disguise_is_undone_to_rounding(move: Move, how: set[str]) -> None:
    a = model(1)
    b = move(a, np.random.default_rng(2))
    found = align(a, b)
    assert isinstance(found, ChainAlignment)
    assert set(found.how) == how
    assert found.share == 1
    assert found.agreement.share > 0.9
    assert off(written(a, b, found), a) < 1e-5


@pytest.mark.parametrize(("move", "how"), DISGUISES)
def test_a_disguise_is_found_after_training_on(move: Move, how: set[str]) -> None:
    a = model(1)
    b = move(noisy(a, 0.1), np.random.default_rng(3))
    found = align(a, b)
    assert set(found.how) == how
    assert found.share == 1
    assert off(written(a, b, found), a) < 0.25


@pytest.mark.parametrize("move", [flipped, turned, permuted, everything])
def test_what_is_written_computes_the_same(move: Move) -> None:
    a, tokens = model(1), np.random.default_rng(5).integers(0, WORDS, 12).tolist()
    b = move(noisy(a, 0.1), np.random.default_rng(3))
    said = computed(b, tokens)
    assert np.abs(computed(noisy(a, 0.1), tokens) - said).max() < 1e-4  # it was a disguise
    assert np.abs(computed(written(a, b, align(a, b)), tokens) - said).max() < 1e-4
    assert np.abs(computed(a, tokens) - said).max() > 1e-2


@pytest.mark.parametrize("move", [flipped, everything, packed])
def test_strangers_are_not_related(move: Move) -> None:
    for seed in range(10, 15):
        found = align(model(1), move(model(seed), np.random.default_rng(seed)))
        assert not found.related
        assert found.share == 0
        assert found.how == ()
        assert found.log10_p > -4


def test_what_was_trained_in_place_is_neither_turned_nor_flipped() -> None:
    a = model(1)
    for share in (0.05, 0.3, 0.7):
        found = align(a, noisy(a, share))
        assert found.share == 1
        assert found.how == ()


def test_coordinates_of_an_embedding_that_only_moved_are_not_called_turned() -> None:
    a = noisy(model(1), 0.1)
    b, rng = dict(model(1)), np.random.default_rng(4)
    order, signs = rng.permutation(INNER), rng.choice([-1.0, 1.0], INNER).astype("f4")
    for name in ("embedding.weight", "lstm.weight_ih_l0"):
        b[name] = b[name][:, order] * signs
    found = align(a, b)
    assert isinstance(found, ChainAlignment)
    assert set(found.how) == {"permuted", "rescaled"}
    assert found.groups[0].turn is None
    assert np.array_equal(order[found.groups[0].order], np.arange(INNER))


def test_the_candidate_is_found_where_names_do_not_tell_it() -> None:
    """Gates under torch's names that are in another order than torch's, in both models."""
    a = reordered(model(1), (CANDIDATE, 0, 3, 1))
    b = reordered(flipped(model(1), np.random.default_rng(2)), (1, 3, 0, CANDIDATE))
    found = align(a, b)
    assert isinstance(found, ChainAlignment)
    assert found.candidate == 0
    assert found.gates == (3, 2, 1, 0)
    assert off(written(a, b, found), a) < 1e-5


def saved(place: Path, weights: Weights, order: Sequence[int] | None = None) -> str:
    """Save a model and the strings of its tokens, its tokens in some order."""
    order = range(WORDS) if order is None else order
    rows = ("embedding.weight", "decoder.weight", "decoder.bias")
    weights = {n: w[list(order)] if n in rows else w for n, w in weights.items()}
    place.mkdir()
    save_file({n: np.ascontiguousarray(w) for n, w in weights.items()}, place / "model.safetensors")
    words = {f"word {token}": row for row, token in enumerate(order)}
    (place / "vocab.json").write_text(json.dumps(words))
    return str(place)


def test_tokens_are_put_in_order_by_their_strings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, rng = model(1), np.random.default_rng(2)
    first = saved(tmp_path / "a", a)
    second = saved(tmp_path / "b", everything(a, rng), rng.permutation(WORDS).tolist())
    other = saved(tmp_path / "c", model(3), rng.permutation(WORDS).tolist())
    out, maps = str(tmp_path / "out.safetensors"), str(tmp_path / "maps.safetensors")
    assert run(["align", first, second, "--write", out, "--certificate", maps]) == 0
    said = capsys.readouterr().out
    assert "rotated, permuted, rescaled" in said
    assert "embedding: 64 of 64 tokens agree, turned" in said
    assert run(["align", first, second, "--apply", maps, "--write", out, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["channels"][0]["looked_at"] == "tokens"
    with read(out) as found:
        one = described(found.items, name="out")
        assert one.arrays.whole(one.arrays.items["decoder.bias"]) == pytest.approx(
            a["decoder.bias"], abs=1e-5
        )
    assert run(["align", first, other]) == 3


def test_tokens_that_only_one_model_has_leave_the_others_in_their_places(tmp_path: Path) -> None:
    a = model(1)
    first = saved(tmp_path / "a", a)
    moved = np.random.default_rng(2).permutation(WORDS).tolist()
    second = saved(tmp_path / "b", a, moved)
    words = {f"word {token}": row for row, token in enumerate(moved) if token != 7}
    (tmp_path / "b" / "vocab.json").write_text(json.dumps({**words, "new": moved.index(7)}))
    found = align(first, second)
    assert isinstance(found, ChainAlignment)
    assert found.tokens is not None
    assert [moved[place] for place in found.tokens] == list(range(WORDS))


def test_both_directions_of_onnx_are_read() -> None:
    rng = np.random.default_rng(1)
    a: Weights = {"embedding.weight": rng.normal(0, 1, (50, 20)).astype("f4")}
    for way in ("", "_reverse"):
        for kind, width in (("ih", 20), ("hh", 30)):
            a[f"gru.weight_{kind}_l0{way}"] = rng.normal(0, 1, (90, width)).astype("f4")
            a[f"gru.bias_{kind}_l0{way}"] = rng.normal(0, 1, 90).astype("f4")
    a["fc.weight"] = rng.normal(0, 1, (12, 60)).astype("f4")
    b = {name: a[name] for name in ("embedding.weight", "fc.weight")}

    def zrh(name: str) -> list[NDArray[Any]]:  # torch: reset, update, candidate
        names = (name, f"{name}_reverse")
        return [a[n].reshape(3, 30, -1)[[1, 0, 2]].reshape(a[n].shape) for n in names]

    b["x.W"], b["x.R"] = (np.stack(zrh(f"gru.weight_{kind}_l0")) for kind in ("ih", "hh"))
    biases = zip(*(zrh(f"gru.bias_{kind}_l0") for kind in ("ih", "hh")), strict=True)
    b["x.B"] = np.stack([np.concatenate(both) for both in biases])
    found = align(a, b)
    assert isinstance(found, ChainAlignment)
    assert found.gates == (1, 0, 2)
    assert found.share == 1
    assert off(written(a, b, found), a) == 0
    assert off(written(b, a, align(b, a)), b) == 0


def test_what_is_named_as_onnx_does_and_is_not_shaped_so_is_refused() -> None:
    for name, cut in {"rnn.0.W": 2, "rnn.1.B": 1}.items():
        b = packed(model(1), np.random.default_rng(2))
        b[name] = np.take(b[name], range(b[name].shape[cut] - 3), axis=cut)
        with pytest.raises(ArchitectureError):
            align(b, b)


def test_the_certificate_is_read_as_it_was_written(tmp_path: Path) -> None:
    a, rng = model(1), np.random.default_rng(2)
    paths = saved(tmp_path / "a", a), saved(tmp_path / "b", everything(a, rng), range(WORDS)[::-1])
    found = align(*paths)
    data = to_bytes(found, "one", "other")
    again = from_bytes(data, "one", "other")
    assert isinstance(found, ChainAlignment)
    assert isinstance(again, ChainAlignment)
    assert to_bytes(again, "one", "other") == data
    assert again.how == found.how
    assert again.agreement == found.agreement
    with read(paths[0]) as one, read(paths[1]) as other:
        both = [
            described(of.items, name="w", tokens=tokens_of(path))
            for of, path in ((one, paths[0]), (other, paths[1]))
        ]
        check(again, *both)
        first, second, *rest = again.groups
        assert first.turn is not None
        wrong = {
            "no inverse": replace(first, turn=np.zeros_like(first.turn)),
            "another scale than a sign": replace(second, scales=np.full(UNITS, 2.0)),
        }
        for reason, group in wrong.items():
            place = again.groups.index(first if group.turn is not None else second)
            groups = [first, second, *rest]
            groups[place] = group
            with pytest.raises(FormatError, match=reason):
                check(replace(again, groups=tuple(groups)), *both)
        for candidate in (None, 4, -1):
            with pytest.raises(FormatError, match="candidate"):
                check(replace(again, candidate=candidate), *both)
        with pytest.raises(FormatError, match="tokens"):
            check(replace(again, tokens=np.zeros(WORDS, np.intp)), *both)


@pytest.mark.parametrize(("move", "how"), DISGUISES[:4])
def test_two_models_are_called_related_and_strangers_not(move: Move, how: set[str]) -> None:
    a = model(1)
    found = compare(a, move(noisy(a, 0.05), np.random.default_rng(2)))
    assert found.related
    assert found.relation == "reparametrized"
    assert found.how in how
    assert not compare(a, move(model(4), np.random.default_rng(2))).related


@pytest.mark.parametrize("move", [flipped, turned, packed, packed_everything])
def test_a_disguised_model_gets_its_parent(move: Move) -> None:
    a = model(1)
    kin = {"a": a, "sibling": noisy(a, 0.2, 98), "stranger": model(3)}
    hidden = move(noisy(a, 0.05), np.random.default_rng(2))
    (edge,) = infer({**kin, "hidden": hidden}).parents("hidden")
    assert (edge.parent, edge.relation) == ("a", "reparametrized")
    assert edge.then == ("finetune", "full")


def test_what_is_left_open_can_be_solved_without_an_embedding() -> None:
    """A network whose inputs are numbers: the first layer's columns are labelled."""
    a = {name: w for name, w in model(1).items() if name != "embedding.weight"}
    b = flipped(permuted(a, np.random.default_rng(2)), np.random.default_rng(3))
    with read(a) as one, read(b) as other:
        found = solve(described(one.items, name="a"), described(other.items, name="b"))
    assert found.how == ("permuted", "rescaled")
    assert off(written(a, b, found), a) == 0


def test_an_embedding_that_a_convolution_reads_is_turned_back() -> None:
    rng = np.random.default_rng(1)
    a: Weights = {
        "embedding.weight": rng.normal(0, 1, (50, 16)).astype("f4"),
        "conv.weight": rng.normal(0, 1, (30, 16, 3)).astype("f4"),
        "conv.bias": rng.normal(0, 1, 30).astype("f4"),
        "fc.weight": rng.normal(0, 1, (12, 30)).astype("f4"),
    }
    turn, order = np.linalg.qr(rng.normal(size=(16, 16)))[0], rng.permutation(30)
    b = dict(a)
    b["embedding.weight"] = (a["embedding.weight"] @ turn).astype("f4")
    b["conv.weight"] = np.einsum("rck,cd->rdk", a["conv.weight"], turn).astype("f4")[order]
    b["conv.bias"], b["fc.weight"] = a["conv.bias"][order], a["fc.weight"][:, order]
    found = align(a, b)
    assert found.how == ("rotated", "permuted")
    assert found.share == 1
    assert off(written(a, b, found), a) < 1e-5


def test_units_without_gates_change_their_sign_whole() -> None:
    rng = np.random.default_rng(1)
    a: Weights = {}
    for name, shape in {
        "rnn.weight_ih_l0": (40, 30), "rnn.weight_hh_l0": (40, 40), "rnn.bias_ih_l0": (40,),
        "fc.weight": (20, 40),
    }.items():  # fmt: skip
        a[name] = rng.normal(0, 1, shape).astype("f4")
    signs, b = rng.choice([-1.0, 1.0], 40).astype("f4"), dict(a)
    b["rnn.weight_ih_l0"] = a["rnn.weight_ih_l0"] * signs[:, None]
    b["rnn.weight_hh_l0"] = a["rnn.weight_hh_l0"] * signs[:, None] * signs
    b["rnn.bias_ih_l0"], b["fc.weight"] = a["rnn.bias_ih_l0"] * signs, a["fc.weight"] * signs
    found = align(a, b)
    assert found.how == ("rescaled",)
    assert off(written(a, b, found), a) == 0
    with read(a) as one, read(b) as other:
        check(found, described(one.items, name="a"), described(other.items, name="b"))


def test_gates_in_another_order_are_found_though_cells_stay_where_they_are() -> None:
    rng, units = np.random.default_rng(1), 300
    a = {
        "lstm.weight_ih_l0": rng.normal(0, 1, (GATES * units, INNER)).astype("f4"),
        "lstm.weight_hh_l0": rng.normal(0, 1, (GATES * units, units)).astype("f4"),
        "decoder.weight": rng.normal(0, 1, (WORDS, units)).astype("f4"),
    }
    b = {
        name: values.reshape(GATES, units, -1)[ONNX].reshape(values.shape)
        if name.startswith("lstm.")
        else values
        for name, values in a.items()
    }
    found = align(a, b)
    assert isinstance(found, ChainAlignment)
    assert found.related
    assert found.gates == (0, 2, 3, 1)
