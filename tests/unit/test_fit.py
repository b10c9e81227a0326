"""What the networks of arcs are fitted on, and to what."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "quality"))

from cases import NO_PARENT, UNKNOWN, cases, invented

FAMILY = invented(4)


def test_invented_families_are_the_same_ones_every_time() -> None:
    again = invented(4)
    assert FAMILY.truth == again.truth
    assert {m: p.root for m, p in FAMILY.prints.items()} == {
        m: p.root for m, p in again.prints.items()
    }
    assert FAMILY.prints.keys() < FAMILY.truth.keys()  # some are hidden


def test_a_part_knows_the_nearest_ancestor_at_hand() -> None:
    found = list(cases(FAMILY, np.random.default_rng(0)))
    assert [case.is_whole for case in found] == [True] + [False] * (len(found) - 1)
    assert len({len(case.parents) for case in found}) > 3
    members = list(FAMILY.prints)
    for child, place in zip(members, found[0].parents, strict=True):
        at = FAMILY.truth[child]["parents"]
        while at and at[0] not in members:
            at = FAMILY.truth[at[0]]["parents"]
        assert place == (members.index(at[0]) if at else NO_PARENT)


def test_behind_a_merge_that_is_not_at_hand_no_parent_is_right() -> None:
    truth = {
        "a": {"parents": [], "relation": None},
        "b": {"parents": [], "relation": None},
        "merge": {"parents": ["a", "b"], "relation": "merge"},
        "child": {"parents": ["merge"], "relation": "finetune"},
    }
    family = type(FAMILY)("made", truth, {})
    assert family.parent("child", ["a", "child"]) == UNKNOWN
    assert family.parent("child", ["merge", "child"]) == 0
    assert family.parent("a", ["a", "child"]) == NO_PARENT


@pytest.mark.torch
def test_the_share_of_the_right_trees_is_what_counting_them_gives() -> None:
    import torch
    from learning import _log_weight

    from lineage.graph.tree import marginals

    score = np.random.default_rng(3).normal(size=(5, 4))
    allowed = np.ones((5, 4), bool)
    np.fill_diagonal(allowed, val=False)
    right = allowed.copy()
    right[:, 2] = False
    right[1, 2] = True
    there = torch.ones(1, 4, dtype=torch.bool)
    whole, good = (
        _log_weight(torch.tensor(score[None]), torch.tensor(of[None]), there)
        for of in (allowed, right)
    )
    assert float(torch.exp(good - whole)[0]) == pytest.approx(marginals(score)[1, 2], abs=1e-6)
