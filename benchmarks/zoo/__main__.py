"""Makes families of real trained networks, and the truth about who came from whom.

    python benchmarks/zoo [--out DIR] [--only FAMILY ...] [--small | --drawn N | --others N |
                         --plain N] [--seed N] [--jobs N]

What is there already is kept. Progress goes to stderr, a line for each family to stdout. Exit
status 1 if a check of the truth fails, 3 if something could not be had.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import fetch  # noqa: E402 - from the folder above
from drawn import drawn, others, plain  # noqa: E402 - needs the paths above
from named import FAMILIES, small  # noqa: E402 - needs the paths above
from recipes import Family  # noqa: E402 - needs the paths above


def main() -> int:
    options = _options()
    families = list(FAMILIES.values())
    lots = drawn(options.drawn) | others(options.others) | plain(options.plain)
    if options.small or lots:
        families = list((small() if options.small else lots).values())
    chosen = [f for f in families if not options.only or f.name in options.only]
    unknown = set(options.only) - {f.name for f in families}
    if unknown:
        print(f"zoo: no such family: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    seeded = [replace(f, seed=f.seed + 100 * options.seed) for f in chosen]
    try:
        fetch.fetch()
        return _run(seeded, options)
    except (fetch.FetchError, OSError, ValueError) as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("zoo: interrupted; what is made is kept", file=sys.stderr)
        return 130


def _run(chosen: Sequence[Family], options: argparse.Namespace) -> int:
    """Make the families, some at a time, each in a process and on a thread of its own."""
    import one

    failed = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        runs = [pool.submit(one.make, family, options.out) for family in chosen]
        try:
            for run in as_completed(runs):
                told, wrong = run.result()
                print(told, flush=True)
                for line in wrong:
                    print(f"zoo: {line}", file=sys.stderr)
                failed += len(wrong)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/zoo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=fetch.CACHE / "zoo", help="where models go")
    parser.add_argument("--only", nargs="+", default=[], metavar="FAMILY", help="these families")
    parser.add_argument("--small", action="store_true", help="two families of few models")
    parser.add_argument("--drawn", type=int, default=0, metavar="N", help="N families by lot")
    parser.add_argument("--others", type=int, default=0, metavar="N", help="N of other networks")
    parser.add_argument("--plain", type=int, default=0, metavar="N", help="N of plain networks")
    parser.add_argument("--seed", type=int, default=0, help="draw everything anew")
    parser.add_argument("--jobs", type=int, default=2, help="families at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
