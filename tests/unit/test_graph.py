"""On really trained small families the graph is the truth; claims that are not are refused."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import Array, train_family, write_model
from safetensors.numpy import load_file
from strategies import KEY, OTHER_KEY, POLICY

from lineage import audit, infer, verify
from lineage.claims import Claim, Level, ModelRef, Parent, Split, sign
from lineage.declared import Declaration, read_declared
from lineage.demo.family import Truth
from lineage.errors import (
    ContradictionError,
    FormatError,
    SchemeError,
    SignatureError,
    VerificationError,
)
from lineage.fingerprints import Fingerprint, fingerprint, to_bytes
from lineage.graph import LineageGraph, infer_graph
from lineage.graph.tree import LONE
from lineage.relation import Relation
from lineage.signing import Envelope

Prints = dict[str, Fingerprint]
SPLITS = (Split("ann", "trainer", Fraction(1)),)
LONERS = {"stranger", "false-heir"}


class Family:
    """One trained family, its fingerprints and its truth."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.truth: Truth = train_family(folder, seed)
        self.prints: Prints = {name: fingerprint(folder / name) for name in self.truth.members}
        self.graph: LineageGraph = infer_graph(self.prints)

    def without(self, *names: str) -> LineageGraph:
        return infer_graph({n: p for n, p in self.prints.items() if n not in names})

    def only(self, *names: str) -> LineageGraph:
        return infer_graph({name: self.prints[name] for name in names})


Families = Callable[[int], Family]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Families:
    """Train each family once."""
    return cache(lambda seed: Family(tmp_path_factory.mktemp("family"), seed))


@pytest.fixture(scope="module", params=range(3), ids="seed {}".format)
def family(request: pytest.FixtureRequest, families: Families) -> Family:
    return families(request.param)


@pytest.fixture(scope="module")
def first(families: Families) -> Family:
    return families(0)


# The graph


def test_the_inferred_edges_are_the_true_ones(family: Family) -> None:
    true = {
        (parent.name, child): (str(parent.relation), parent.how)
        for child, member in family.truth.members.items()
        for parent in member.parents
    }
    found = {(e.parent, e.child): (str(e.relation), e.how) for e in family.graph.edges}
    assert found == true
    for edge in family.graph.edges:
        (parent,) = [p for p in family.truth.members[edge.child].parents if p.name == edge.parent]
        if parent.coefficient is None:
            assert edge.coefficient is None
        else:
            assert edge.coefficient == pytest.approx(parent.coefficient, abs=0.01)
        assert 0.5 <= edge.probability <= 0.99


def test_strangers_stand_alone(family: Family) -> None:
    graph = family.graph
    assert graph.family("stranger") != graph.family("false-heir")
    assert len({node.family for node in graph.nodes}) == 3
    for pair in graph.pairs:
        if {pair.a, pair.b} & LONERS:
            assert not pair.related
        else:
            assert pair.related is True
    lowest = min(p.score for p in graph.pairs if p.related)
    assert lowest > max(p.score for p in graph.pairs if not p.related)


def test_the_order_of_the_input_never_matters(family: Family) -> None:
    want = json.dumps(family.graph.to_json())
    chance = random.Random(0)
    for _ in range(4):
        items = list(family.prints.items())
        chance.shuffle(items)
        assert json.dumps(infer_graph(dict(items)).to_json()) == want


def test_names_never_matter(family: Family) -> None:
    # The same models under names in another order: the same edges, renamed.
    names = sorted(family.prints)
    other = dict(zip(names, [f"m{n:02}" for n in range(len(names), 0, -1)], strict=True))
    graph = infer_graph({other[name]: found for name, found in family.prints.items()})
    found = {(e.parent, e.child, e.relation, e.how) for e in graph.edges}
    assert found == {
        (other[e.parent], other[e.child], e.relation, e.how) for e in family.graph.edges
    }


def test_the_graph_answers_questions(first: Family) -> None:
    graph = first.graph
    assert graph.ancestors("blend") == {"base", "base-sft-code", "base-sft-docs"}
    assert graph.ancestors("base") == graph.ancestors("stranger") == frozenset()
    assert [edge.parent for edge in graph.parents("blend")] == ["base-sft-code", "base-sft-docs"]
    one, other = graph.between("base", "docs-lora"), graph.between("docs-lora", "base")
    assert one.how == "low_rank"
    assert one.margin == -other.margin
    assert one.margin > 0


def test_the_json_form_is_the_contract(first: Family) -> None:
    document = first.graph.to_json()
    assert list(document) == ["models", "edges", "pairs", "undetermined"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert {tuple(model) for model in document["models"]} == {("path", "id", "family")}
    assert {tuple(edge) for edge in document["edges"]} == {
        ("parent", "child", "relation", "how", "coefficient", "probability")
    }
    assert {tuple(pair) for pair in document["pairs"]} == {("a", "b", "score", "related")}
    paths = [model["path"] for model in document["models"]]
    pairs = {frozenset((pair["a"], pair["b"])) for pair in document["pairs"]}
    assert pairs == {frozenset(pair) for pair in itertools.combinations(paths, 2)}
    assert len(document["pairs"]) == 55


def test_a_hidden_parent_gives_no_confident_edge_between_its_children(family: Family) -> None:
    graph = family.without("base", "base-mirror")
    true = set(family.truth.edges())
    invented = [edge for edge in graph.edges if (edge.parent, edge.child) not in true]
    assert [e for e in invented if e.probability > 0.9] == []
    # What is certain without the base is still said.
    found = {(e.parent, e.child) for e in graph.edges}
    assert ("base-sft-docs", "base-sft-docs-int8") in found
    assert {("base-sft-code", "blend"), ("base-sft-docs", "blend")} <= found


def test_siblings_alone_have_no_parent_among_them(family: Family) -> None:
    graph = family.only("base-sft-code", "base-sft-docs", "docs-lora")
    assert [e for e in graph.edges if e.probability > 0.9] == []
    assert len({node.family for node in graph.nodes}) == 1
    for a, b in itertools.combinations(["base-sft-code", "base-sft-docs", "docs-lora"], 2):
        graph = family.only(a, b)
        assert [e for e in graph.edges if e.probability > 0.9] == []


def test_few_models(first: Family) -> None:
    alone = first.only("base")
    assert alone.edges == alone.pairs == alone.undetermined == ()
    assert alone.to_json()["models"] == [
        {"path": "base", "id": first.prints["base"].root, "family": 0}
    ]
    (edge,) = first.only("base", "docs-lora").edges
    assert (edge.parent, edge.child, edge.how) == ("base", "docs-lora", "low_rank")
    (edge,) = first.only("base", "base-mirror").edges
    assert (edge.relation, edge.how, edge.probability) == (Relation.IDENTICAL, "renamed", 0.5)
    assert first.only("base", "stranger").edges == ()
    assert infer_graph({}).to_json() == {"models": [], "edges": [], "pairs": [], "undetermined": []}


def test_duplicates_only_hang_on_one_of_them(first: Family) -> None:
    base = first.prints["base"]
    graph = infer_graph(dict.fromkeys("dbca", base))
    assert {(e.parent, e.child) for e in graph.edges} == {("a", "b"), ("a", "c"), ("a", "d")}
    assert all(pair.related and pair.score == 1 for pair in graph.pairs)
    assert {(e.relation, e.how) for e in graph.edges} == {(Relation.IDENTICAL, "same")}


def test_every_family_is_acyclic_and_every_child_has_one_kind_of_parent(family: Family) -> None:
    chance = random.Random(1)
    for _ in range(12):
        names = chance.sample(sorted(family.prints), chance.randrange(2, 11))
        graph = family.only(*names)
        for name in names:
            assert name not in graph.ancestors(name)
            relations = {edge.relation for edge in graph.parents(name)}
            assert len(relations) <= 1
            if relations != {Relation.MERGE}:
                assert len(graph.parents(name)) <= 1


def test_families_without_a_common_tensor_are_kept_apart(first: Family) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(80, 70)).astype(np.float32)
    other: dict[str, dict[str, Array]] = {
        "cnn": {"conv": weights},
        "cnn-tuned": {"conv": weights + (0.2 * rng.normal(size=(80, 70))).astype(np.float32)},
    }
    few = {n: first.prints[n] for n in ("base", "base-sft-code", "stranger")}
    graph = infer_graph(few | {name: fingerprint(model) for name, model in other.items()})
    found = {(e.parent, e.child) for e in graph.edges}
    assert found == {("base", "base-sft-code"), ("cnn", "cnn-tuned")}
    for pair in graph.pairs:
        if ("cnn" in pair.a) != ("cnn" in pair.b):
            assert pair.related is None


def test_related_models_with_no_tensor_in_common_to_all() -> None:
    # A shares one matrix with B, B another with C; nothing is in all three.
    rng = np.random.default_rng(1)
    x, y, z = rng.normal(size=(3, 90, 70)).astype(np.float32)
    step = (0.2 * rng.normal(size=(90, 70))).astype(np.float32)
    models = {"a": {"x": x}, "b": {"x": x + step, "y": y}, "c": {"y": y + step, "z": z}}
    graph = infer({name: dict(model) for name, model in models.items()})
    assert len({node.family for node in graph.nodes}) == 1
    assert all(name not in graph.ancestors(name) for name in models)


def test_two_schemes_in_one_graph_are_refused(first: Family) -> None:
    base = first.prints["base"]
    with pytest.raises(SchemeError):
        infer_graph({"a": base, "b": replace(base, scheme="other")})


def test_infer_takes_folders_paths_and_saved_fingerprints(first: Family, tmp_path: Path) -> None:
    names = ("base", "base-sft-code", "base-mirror")
    for name in names:
        (tmp_path / f"{name}.lineage").write_bytes(to_bytes(first.prints[name]))
    saved = infer([tmp_path])
    assert [Path(node.path).name for node in saved.nodes] == sorted(f"{n}.lineage" for n in names)
    paths = infer([str(first.folder / name) for name in names])
    assert {n.id for n in paths.nodes} == {n.id for n in saved.nodes}
    edges = {(Path(e.parent).name, Path(e.child).name) for e in paths.edges}
    assert edges == {("base", "base-sft-code"), ("base", "base-mirror")}
    twice = infer([tmp_path, tmp_path / "base.lineage"])
    assert twice.to_json() == saved.to_json()
    with pytest.raises(FormatError):
        infer([tmp_path / "empty"] if (tmp_path / "empty").mkdir() is None else [])


# What models declare


def declared(family: Family) -> dict[str, tuple[Declaration, ...]]:
    return {name: read_declared(family.folder / name) for name in family.prints}


def test_lies_are_contradicted_and_truths_confirmed(family: Family) -> None:
    verdicts = audit.judge(family.graph, declared(family))
    found = {(v.child, v.parent): v.verdict for v in verdicts}
    wanted = {
        (child, parent): "confirmed"
        if child not in {"false-heir", "false-origin"}
        else "contradicted"
        for child, member in family.truth.members.items()
        for parent in member.declared
    }
    assert found == wanted
    for verdict in verdicts:
        assert "\n" not in verdict.words
        assert set(verdict.to_json()) == {"child", "parent", "verdict", "words"}


def pointing(parent: str) -> list[Declaration]:
    return [Declaration(parent, None, "README.md: base_model")]


def verdict_of(family: Family, child: str, parent: str) -> tuple[str, str]:
    (verdict,) = audit.judge(family.graph, {child: pointing(parent)})
    return verdict.verdict, verdict.words


def test_every_kind_of_verdict(first: Family) -> None:
    assert verdict_of(first, "base-sft-code-v2", "base")[0] == "confirmed"
    assert "base-sft-code" in verdict_of(first, "base-sft-code-v2", "base")[1]
    assert verdict_of(first, "base-sft-code", "some-org/base")[0] == "confirmed"
    verdict, words = verdict_of(first, "base", "docs-lora")
    assert verdict == "contradicted"
    assert "other way round" in words
    verdict, words = verdict_of(first, "docs-lora", "base-sft-code")
    assert verdict == "contradicted"
    assert "base" in words
    verdict, words = verdict_of(first, "base", "stranger")
    assert verdict == "contradicted"
    assert "unrelated" in words
    verdict, words = verdict_of(first, "base", "org/never-seen")
    assert verdict == "unchecked"
    assert "not at hand" in words
    assert verdict_of(first, "base", "base")[0] == "unchecked"


def test_an_ambiguous_name_is_left_unchecked(first: Family) -> None:
    prints = {f"{org}/base": first.prints["base"] for org in "ab"}
    graph = infer_graph(prints | {"c/child": first.prints["base-sft-code"]})
    (verdict,) = audit.judge(graph, {"c/child": pointing("base")})
    assert verdict.verdict == "unchecked"
    assert "several" in verdict.words


def test_without_an_order_nothing_is_confirmed_or_contradicted(first: Family) -> None:
    graph = first.only("base-sft-code", "base-sft-docs")
    (verdict,) = audit.judge(graph, {"base-sft-docs": pointing("base-sft-code")})
    assert verdict.verdict == "undetermined"


# Claims


def claim_of(family: Family, child: str, *parents: str, **rest: Any) -> Claim:
    named = {name: family.prints[name] for name in parents}
    return audit.draft(child, family.prints[child], named, splits=SPLITS, **rest)


def lie_of(family: Family, child: str, parent: str, how: Relation = Relation.FINETUNE) -> Envelope:
    """Sign, as nobody honest would, that `child` comes from `parent`."""
    honest = claim_of(family, child)
    named = Parent(ModelRef(parent, family.prints[parent].root), how)
    return sign(replace(honest, parents=(named,)), KEY)


def test_a_true_claim_is_never_contradicted_and_mostly_confirmed(family: Family) -> None:
    named = confirmed = 0
    for child, member in family.truth.members.items():
        parents = [parent.name for parent in member.parents]
        made = claim_of(family, child, *parents)
        for parent, true in zip(made.parents, member.parents, strict=True):
            assert (parent.model.name, parent.relation) == (true.name, true.relation)
            assert parent.how in {true.how, None}
            if true.coefficient is not None:
                assert float(parent.coefficient or 0) == pytest.approx(true.coefficient, abs=0.01)
        found = verify(
            sign(made, KEY),
            POLICY,
            weights=family.folder / child,
            parents=[family.folder / name for name in parents],
        )
        assert found.confirmed <= {family.prints[name].root for name in parents}
        assert {finding.level for finding in made.findings} <= {Level.INFERRED}
        named += len(parents)
        confirmed += len(found.confirmed)
    assert named == 9
    assert confirmed >= 8


def test_a_false_parent_is_contradicted(family: Family) -> None:
    lies = [
        ("false-heir", "base"),
        ("false-origin", "stranger"),
        ("base-sft-docs", "base-sft-docs-int8"),
    ]
    for child, parent in lies:
        with pytest.raises(ContradictionError, match=child) as caught:
            verify(
                lie_of(family, child, parent),
                POLICY,
                weights=family.prints[child],
                parents=family.prints.values(),
            )
        assert parent in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_copy_that_claims_work_of_its_own_is_contradicted(first: Family) -> None:
    for child in ("base-mirror", "base-sft-docs-int8"):
        (parent,) = (p.name for p in first.truth.members[child].parents)
        with pytest.raises(ContradictionError, match="the parent's own"):
            verify(
                lie_of(first, child, parent),
                POLICY,
                weights=first.prints[child],
                parents=[first.prints[parent]],
            )


def test_a_merge_is_measured_with_all_its_parents(family: Family) -> None:
    envelope = sign(claim_of(family, "blend", "base-sft-code", "base-sft-docs"), KEY)
    prints = family.prints
    parents = [prints["base-sft-code"], prints["base-sft-docs"]]
    for order in (parents, parents[::-1], list(prints.values())):
        found = verify(envelope, POLICY, weights=prints["blend"], parents=order)
        assert all(edge.confirmed for edge in found.edges)
        assert {edge.relation for edge in found.edges} == {Relation.MERGE}
    # With one parent alone nothing is contradicted, and nothing confirmed.
    found = verify(envelope, POLICY, weights=prints["blend"], parents=parents[:1])
    assert found.confirmed == frozenset()


def test_tampered_weights_are_not_the_claimed_ones(first: Family, tmp_path: Path) -> None:
    envelope = sign(claim_of(first, "docs-lora", "base"), KEY)
    weights = load_file(first.folder / "docs-lora" / "model.safetensors")
    copy = write_model(tmp_path / "copy.safetensors", weights)
    assert verify(envelope, POLICY, weights=copy).claim.subject.name == "docs-lora"
    name = min(weights)
    weights[name].reshape(-1)[0] = np.nextafter(weights[name].reshape(-1)[0], np.float32(9))
    tampered = write_model(tmp_path / "tampered.safetensors", weights)
    with pytest.raises(ContradictionError, match="the weights at hand"):
        verify(envelope, POLICY, weights=tampered)
    with pytest.raises(ContradictionError, match="the weights at hand"):
        verify(envelope, POLICY, weights=weights)


def test_saved_fingerprints_stand_for_weights(first: Family, tmp_path: Path) -> None:
    envelope = sign(claim_of(first, "docs-lora", "base"), KEY)
    for name in ("docs-lora", "base", "stranger"):
        (tmp_path / f"{name}.lineage").write_bytes(to_bytes(first.prints[name]))
    found = verify(
        envelope,
        POLICY,
        weights=tmp_path / "docs-lora.lineage",
        parents=[str(tmp_path / "base.lineage"), tmp_path / "stranger.lineage"],
    )
    assert found.confirmed == {first.prints["base"].root}
    with pytest.raises(ContradictionError):
        verify(envelope, POLICY, weights=tmp_path / "stranger.lineage")


def test_the_signature_comes_first(first: Family) -> None:
    forged = sign(claim_of(first, "docs-lora", "base"), OTHER_KEY)
    with pytest.raises(SignatureError):
        verify(forged, POLICY, weights=first.prints["stranger"])
    with pytest.raises(SignatureError):
        verify(forged, POLICY)


def test_a_parent_nobody_measured_is_refused_where_the_policy_asks(first: Family) -> None:
    envelope = sign(claim_of(first, "docs-lora", "base"), KEY)
    strict = replace(POLICY, require_measured=True)
    assert not verify(envelope, POLICY, weights=first.prints["docs-lora"]).confirmed
    for weights, parents in ((None, ()), (first.prints["docs-lora"], (first.prints["stranger"],))):
        with pytest.raises(VerificationError, match="no measurement confirms"):
            verify(envelope, strict, weights=weights, parents=parents)


def test_a_false_parent_is_not_even_drafted(family: Family) -> None:
    for child, parent in (("false-heir", "base"), ("base", "stranger")):
        with pytest.raises(ContradictionError, match=f"'{child}' is not derived from '{parent}'"):
            claim_of(family, child, parent)


def test_a_fine_tune_claimed_as_its_bases_base_is_never_confirmed(family: Family) -> None:
    # The lean of the weights accuses nobody, but it vouches for nobody either.
    for child, parent in (("base", "base-sft-code"), ("base", "docs-lora")):
        envelope = lie_of(family, child, parent)
        given: dict[str, Any] = {
            "weights": family.prints[child], "parents": [family.prints[parent]],
        }  # fmt: skip
        assert not verify(envelope, POLICY, **given).confirmed
        with pytest.raises(VerificationError, match="no measurement confirms"):
            verify(envelope, replace(POLICY, require_measured=True), **given)
        made = claim_of(family, child, parent)
        assert all(finding.relation is not Relation.FINETUNE for finding in made.findings)


def test_a_quantized_copy_is_not_drafted_as_its_sources_parent(first: Family) -> None:
    with pytest.raises(ContradictionError, match="base-sft-docs"):
        claim_of(first, "base-sft-docs", "base-sft-docs-int8")


def test_one_parent_true_and_one_false_is_contradicted(first: Family) -> None:
    with pytest.raises(ContradictionError, match="stranger"):
        claim_of(first, "docs-lora", "base", "stranger")


def test_what_only_people_know_is_taken_from_them(first: Family) -> None:
    graph = first.graph.between("base-sft-code", "base-sft-docs")
    assert graph.direction is None
    made = claim_of(first, "base-sft-docs", "base-sft-code", relation=Relation.DISTILLED_FROM)
    assert made.parents[0].relation is Relation.DISTILLED_FROM
    assert made.findings == ()


def test_a_draft_holds_what_was_given(first: Family) -> None:
    from datetime import UTC, datetime

    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    made = claim_of(first, "blend", rate=Fraction(1, 20), audience="example.com/log", now=when)
    assert (made.rate, made.audience, made.issued) == (
        Fraction(1, 20), "example.com/log", "2026-01-02T03:04:05Z",
    )  # fmt: skip
    assert made.subject.manifest_sha256 == first.prints["blend"].manifest_sha256
    assert made.nonce != claim_of(first, "blend", now=when).nonce


def test_words_of_a_contradiction_can_be_read(first: Family) -> None:
    with pytest.raises(ContradictionError) as caught:
        claim_of(first, "false-heir", "base")
    assert "have a cosine of" in str(caught.value)


def test_evidence_is_told_in_the_models_names(first: Family) -> None:
    graph = first.only("base-sft-code", "base-sft-docs")
    for unclear in graph.undetermined:
        assert " a " not in unclear.why.replace(" a cosine", "").replace(" a merged", "")


def test_a_declared_only_parent_takes_nothing_from_the_check_of_the_other(first: Family) -> None:
    base, child = first.prints["base"], first.prints["base-sft-code"]
    stranger = first.prints["stranger"]
    policy = replace(POLICY, require_measured=True)
    made = audit.draft("child", child, {"base": base}, splits=[Split("a", "maker", Fraction(1))])
    judge = Parent(ModelRef("judge", stranger.root), Relation.EVALUATED_BY)
    both = replace(made, parents=(*made.parents, judge))
    found = audit.verify(sign(both, KEY), policy, weights=child, parents=[base, stranger])
    assert found.confirmed == {base.root}
    # A copy in fewer bits stays a shell beside another parent.
    copy = first.prints["base-sft-docs-int8"]
    source = first.prints["base-sft-docs"]
    lie = Parent(ModelRef("docs", source.root), Relation.FINETUNE, "full")
    other = Parent(ModelRef("code", child.root), Relation.FINETUNE, "full")
    shell = replace(made, subject=ModelRef("copy", copy.root), parents=(lie, other), findings=())
    with pytest.raises(ContradictionError, match="quantized"):
        audit.verify(
            sign(shell, KEY),
            POLICY,
            weights=copy,
            parents=[source, child],
        )


def test_a_claims_delta_may_be_on_the_other_side_of_a_line() -> None:
    """As another machine's last bits may have it, of the same files."""
    folder = Path(__file__).parents[1] / "vectors" / "delta" / "v1" / "border"
    found = fingerprint(folder)
    assert found.delta is not None
    own, other = found.delta.ids
    made = audit.draft("adapter", found, {}, splits=[Split("a", "maker", Fraction(1))])
    assert made.delta is not None
    assert made.delta.id == own
    for identity in (own, other):
        stated = replace(made, delta=replace(made.delta, id=identity))
        audit.verify(sign(stated, KEY), POLICY, weights=folder)
    for delta, reason in (
        (replace(made.delta, id="0f" * 32), "its identity"),
        (replace(made.delta, changed=made.delta.changed * 0), "what it changes"),
    ):
        with pytest.raises(ContradictionError, match=reason):
            audit.verify(sign(replace(made, delta=delta), KEY), POLICY, weights=folder)


def test_distillation_is_declared_and_not_measured(first: Family) -> None:
    made = audit.draft(
        "student",
        first.prints["stranger"],
        {"teacher": first.prints["base"]},
        splits=[Split("a", "maker", Fraction(1))],
        relation=Relation.DISTILLED_FROM,
    )
    assert made.parents[0].relation is Relation.DISTILLED_FROM
    assert made.findings == ()


def test_a_lone_pair_is_never_certain(first: Family) -> None:
    (edge,) = first.only("base", "base-sft-code").edges
    assert 0.5 < edge.probability <= LONE < audit.ACCUSING
    graph = first.only("base", "base-sft-code")
    (verdict,) = audit.judge(graph, {"base": pointing("base-sft-code")})
    assert verdict.verdict == "undetermined"


def test_frozen_tensors_and_adapters_choose_their_parent() -> None:
    rng = np.random.default_rng(5)

    def step(model: dict[str, Array], size: float, names: str = "") -> dict[str, Array]:
        return {
            n: (w + size * rng.normal(size=w.shape)).astype(np.float32) if names in n else w
            for n, w in model.items()
        }

    base: dict[str, Array] = {
        f"{part}.{n}": rng.normal(size=(72, 72)).astype(np.float32)
        for part in ("front", "back")
        for n in range(3)
    }
    thin = {n: (rng.normal(size=(72, 2)) @ rng.normal(size=(2, 72))) * 0.1 for n in base}
    models = {
        "base": base,
        "a": step(base, 0.2),
        "b": step(base, 0.3),
        "frozen": step(base, 0.2, "back"),
        "lora": {n: (w + thin[n]).astype(np.float32) for n, w in base.items()},
    }
    graph = infer_graph({name: fingerprint(model) for name, model in models.items()})
    found = {e.child: (e.parent, e.how) for e in graph.edges}
    assert found["frozen"] == ("base", "partial")
    assert found["lora"] == ("base", "low_rank")


@pytest.mark.parametrize("seed", range(5, 11))
def test_an_adapter_that_made_the_norm_smaller_still_came_from_the_base(seed: int) -> None:
    """The norm would say that the base came from it; the rest of the family says otherwise."""
    rng = np.random.default_rng(seed)
    base = {f"layers.{n}.w": rng.standard_normal((96, 96)) for n in range(4)}
    models = {
        f"tune-{k}": {n: w + 0.1 * rng.standard_normal(w.shape) for n, w in base.items()}
        for k in range(4)
    }
    adapted = {}
    for name, w in base.items():
        left, sizes, right = np.linalg.svd(w)
        adapted[name] = w - 0.3 * (left[:, :4] * sizes[:4]) @ right[:4]
        assert np.linalg.norm(adapted[name]) < np.linalg.norm(w)
    models |= {"base": base, "adapted": adapted}
    graph = infer({m: {n: w.astype(np.float32) for n, w in ws.items()} for m, ws in models.items()})
    found = {(e.parent, e.child): e.how for e in graph.edges if {e.parent, e.child} & {"adapted"}}
    assert found == {("base", "adapted"): "low_rank"}


def in_steps(weights: Array) -> Array:
    """Round to seven steps on either side of zero, a scale for 16 values."""
    parts = weights.reshape(-1, 16)
    step = np.abs(parts).max(axis=1, keepdims=True) / 7 + 1e-30
    return np.asarray((np.rint(parts / step) * step).reshape(weights.shape), np.float32)


@pytest.mark.parametrize("source", ["base-sft-code", "base-sft-docs"])
def test_what_was_rounded_is_a_copy_of_its_source_alone(families: Families, source: str) -> None:
    family = families(1)
    weights = load_file(next((family.folder / source).glob("*.safetensors")))
    matrices = {n: in_steps(w) for n, w in weights.items() if w.ndim == 2 and w.size % 16 == 0}
    child = fingerprint({**weights, **matrices})
    others = {name: family.prints[name] for name in ("base", "stranger")}
    for sources in ({source: family.prints[source]}, {}):
        graph = infer_graph({**others, **sources, "rounded": child})
        copied = {e.parent for e in graph.edges if e.relation is Relation.QUANTIZED}
        assert copied == set(sources)
        assert all(edge.parent != "rounded" for edge in graph.edges)


def test_a_merge_that_was_rounded_is_a_sum_and_has_no_mask(families: Families) -> None:
    family = families(1)
    parents = ["base-sft-code", "base-sft-docs"]
    one, other = (load_file(next((family.folder / p).glob("*.safetensors"))) for p in parents)
    mean = {name: (one[name] + other[name]) / 2 for name in one}
    child = {n: in_steps(w) if w.ndim == 2 and w.size % 16 == 0 else w for n, w in mean.items()}
    prints = {name: family.prints[name] for name in ("base", "stranger", *parents)}
    graph = infer_graph({**prints, "rounded": fingerprint(child)})
    found = [edge for edge in graph.edges if edge.child == "rounded"]
    assert not [edge for edge in found if edge.how in {"dare", "ties"}]
    if any(edge.relation is Relation.MERGE for edge in found):
        assert {edge.parent for edge in found} == set(parents)
        assert {edge.how for edge in found} == {"linear"}


def test_zeros_in_one_place_came_after_the_values(families: Families) -> None:
    # A head or a channel that was cut out: few zeros, which no training leaves.
    family = families(1)
    weights = load_file(next((family.folder / "base").glob("*.safetensors")))
    name = max((n for n, w in weights.items() if w.ndim == 2), key=lambda n: weights[n].size)
    cut = weights[name].copy()
    cut[:, : cut.shape[1] // 4] = 0
    graph = infer_graph({**family.prints, "cut": fingerprint({**weights, name: cut})})
    assert not [edge for edge in graph.edges if edge.parent == "cut"]
    (edge,) = (edge for edge in graph.edges if edge.child == "cut")
    assert (edge.relation, edge.how) == (Relation.PRUNED, "unstructured")
