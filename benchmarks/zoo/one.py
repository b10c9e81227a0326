"""Makes one family, writes its truth and checks it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import check
import truth
from making import Places, build
from recipes import Family


def make(family: Family, out: Path) -> tuple[str, list[str]]:
    """Return a line about a family, and what is wrong with it."""
    warnings.filterwarnings("ignore")
    places = Places.of(out, family.name)
    records = build(family, places, lambda words: print(words, file=sys.stderr, flush=True))
    document = truth.write(family, records, places.truth)
    wrong = check.check(family, document, places)
    return truth.summary(document), [f"{family.name}: {line}" for line in wrong]
