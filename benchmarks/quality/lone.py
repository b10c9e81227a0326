"""Fits what two models alone tell of who came first: `lineage/evidence/alone.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from cases import Family, shrunk, steps
from learning import RATE, Scorer

from lineage.evidence.alone import Alone
from lineage.evidence.gains import Gains

HIDDEN, NETS, FOLDS, EPOCHS, BATCH, DECAY = 8, 3, 3, 60, 128, 0.3
SHRUNK, SHRUNK_WEIGHT = 2, 0.7
"""How often each step is taken as it would be against decay, and what that weighs beside one as it
is."""


class Step(NamedTuple):
    """One step of training alone: the gains of its two models, parent first."""

    family: str
    weight: float
    seen: Gains


def steps_of(family: Family, rng: np.random.Generator) -> list[Step]:
    """Return a family's steps, as they are and as they would be against decay."""
    found = [Step(family.name, 1.0, seen) for seen in steps(family)]
    for _ in range(SHRUNK):
        found += [Step(family.name, SHRUNK_WEIGHT, seen) for seen in steps(shrunk(family, rng))]
    return found


def fit(of: Sequence[Step], seed: int) -> Alone:
    """Fit networks whose score of a step is above that of the step back."""
    sizes: dict[str, int] = {}
    for one in of:
        sizes[one.family] = sizes.get(one.family, 0) + 1
    weight = torch.tensor([one.weight * sizes[one.family] ** -0.5 for one in of])
    weight /= weight.mean()
    there, back = (torch.tensor(np.stack([one.seen.arcs[at] for one in of]))
                   for at in ((0, 1), (1, 0)))  # fmt: skip
    nets = []
    for k in range(NETS):
        torch.manual_seed(seed + k)
        scorer = Scorer(torch.cat([there, back]), HIDDEN)
        optimizer = torch.optim.AdamW(scorer.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for _ in range(EPOCHS):
            for lot in torch.randperm(len(of)).split(BATCH):
                odds_of = scorer(there[lot]) - scorer(back[lot])
                loss = (torch.nn.functional.softplus(-odds_of) * weight[lot]).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
                optimizer.step()
            schedule.step()
        nets.append(scorer.plain())
    return Alone(tuple(nets), of[0].seen.names)


def held_out(of: Sequence[Step], seed: int) -> None:
    """Print how often the order of steps of families that were left out is said, and right."""
    names = sorted({one.family for one in of})
    found: list[float] = []
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        by = fit([one for one in of if one.family not in out], seed)
        found += [float(by(one.seen)[0, 1]) for one in of if one.family in out and one.weight == 1]
    odds_of = np.array(found)
    for least in (0.0, 1.5, 2.0, 2.5, 3.0, 4.0):
        said = np.abs(odds_of) >= least
        print(f"odds of {np.exp(least):.1f} and more: said {said.mean():.3f}, right "
              f"{(odds_of[said] > 0).mean():.3f}")  # fmt: skip
