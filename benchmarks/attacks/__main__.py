"""Hides where models come from, in every way that is known to us, and keeps the truth about it.

    python benchmarks/attacks --make [--zoo DIR] [--out DIR] [--only FAMILY ...] [--small]

Progress goes to stderr, a line for each family to stdout. Exit status 1 if a disguise changed what
a model says, 3 if something could not be had.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

_CACHE = Path(__file__).resolve().parents[1] / ".cache"


def main() -> int:
    options = _options()
    if not options.make:
        print("attacks: nothing to do; say --make", file=sys.stderr)
        return 2
    return _make(options)


def _make(options: argparse.Namespace) -> int:
    import matrix
    from workshop import workshop

    names = options.only or sorted(
        path.name.removesuffix(".truth.json") for path in options.zoo.glob("*.truth.json")
    )
    for name in names:
        try:
            shop = workshop(options.zoo, name)
            models = matrix.chosen(shop)
            bench = matrix.Bench(shop, models, options.out / name, options.dtype, _say)
            rows = matrix.plan(bench, options.small)
            document = matrix.make_family(bench, rows)
        except matrix.MakingError as error:
            print(f"attacks: {error}", file=sys.stderr)
            return 1
        except (OSError, ValueError) as error:
            print(f"attacks: {name}: {error}", file=sys.stderr)
            return 3
        print(f"{name}: {len(document['made'])} made, {len(document['models'])} beside", flush=True)
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/attacks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--make", action="store_true", help="make the models of the matrix")
    parser.add_argument("--zoo", type=Path, default=_CACHE / "zoo", help="where families lie")
    parser.add_argument("--out", type=Path, default=_CACHE / "attacks", help="where models go")
    parser.add_argument("--only", nargs="+", default=[], metavar="FAMILY", help="these families")
    parser.add_argument("--small", action="store_true", help="no limits and three follow-ups")
    parser.add_argument("--dtype", default="F32", choices=("F32", "BF16", "F16"),
                        help="what disguised weights are stored in")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
