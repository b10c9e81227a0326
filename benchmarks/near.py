"""Times the sketches of near-duplicates, and two ways to find which of them to compare.

    python benchmarks/near.py [--records 100000] [--words 40]

The search is that of `lineage overlap`, and datasketch's `MinHashLSH` with the same bands, each in
a process of its own; its memory is what it takes at its peak beyond the sketches (on Linux).
Sketches are of drawn words; those that are searched are drawn numbers, one record in ten a copy of
which up to 35 % was changed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

_HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_HOME))

from lineage.datasets.near import BANDS, PERMUTATIONS, Sketches, near_duplicates, sketches  # noqa: E402

THRESHOLD = 0.8


def drawn(records: int) -> tuple[Sketches, Sketches]:
    """Two data sets' sketches."""
    draw = np.random.default_rng(0)
    ours, others = (
        draw.integers(0, 2**32, (records, PERMUTATIONS), dtype=np.uint32) for _ in range(2)
    )
    copies = others[: records // 10].copy()
    changed = draw.random(copies.shape) < draw.uniform(0, 0.35, (len(copies), 1))
    copies[changed] = draw.integers(0, 2**32, int(changed.sum()), dtype=np.uint32)
    ours[: len(copies)] = copies
    return ours, others


def by_lineage(ours: Sketches, others: Sketches) -> int:
    return near_duplicates(ours, others, THRESHOLD).count


def by_datasketch(ours: Sketches, others: Sketches) -> int:
    from datasketch import MinHash, MinHashLSH

    permutations = MinHash(num_perm=PERMUTATIONS).permutations

    def sketch(row: np.ndarray) -> MinHash:
        return MinHash(hashvalues=row, permutations=permutations, scheme="affine32")

    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, PERMUTATIONS // BANDS))
    for number, row in enumerate(others):
        index.insert(number, sketch(row), check_duplication=False)
    count = 0
    for row in ours:
        met = index.query(sketch(row))
        count += bool(met) and bool((others[met] == row).mean(axis=1).max() >= THRESHOLD)
    return count


WAYS = {"lineage overlap": by_lineage, "MinHashLSH": by_datasketch}


def searched(way: str, records: int) -> None:
    """Search once, and print what was found and what it took."""
    ours, others = drawn(records)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak()
    begun = time.process_time()
    found = WAYS[way](ours, others)
    taken = time.process_time() - begun
    print(json.dumps([found, taken, (_peak() - before) / 1024]))


def _peak() -> int:
    """Return the most memory taken since the peak began anew, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--search", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.search:
        searched(given.search, given.records)
        return
    draw = np.random.default_rng(0)
    texts = [
        json.dumps({"text": " ".join(f"w{n}" for n in row)}).encode()
        for row in draw.integers(0, 5000, (given.records, given.words))
    ]
    sketches(texts[:1])
    begun = time.process_time()
    sketches(texts)
    each = (time.process_time() - begun) / given.records
    print(
        f"sketch of a record of {given.words} words: {1e6 * each:.0f} microseconds of a processor\n"
    )
    print("| search | records of each | near | seconds of a processor | more memory |")
    print("| --- | --- | --- | --- | --- |")
    for way in WAYS:
        command = [sys.executable, __file__, "--search", way, "--records", str(given.records)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found, taken, more = json.loads(done.stdout)
        print(f"| {way} | {given.records:,} | {found:,} | {taken:.1f} | {more:,.0f} MiB |")


if __name__ == "__main__":
    main()
