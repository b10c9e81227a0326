"""Hides where models come from, in every way that is known to us, and keeps the truth about it.

    python benchmarks/attacks --make [--zoo DIR] [--out DIR] [--only FAMILY ...] [--small]
    python benchmarks/attacks --score [--out DIR] [--only FAMILY ...] [--answers FILE]
                                      [--json FILE] [--pictures DIR]
    python benchmarks/attacks --parents [--out DIR] [--only FAMILY ...] [--json FILE]

Answers are kept in a file, so that an interrupted `--score` goes on where it was.

Progress goes to stderr, a line for each family, or the tables, to stdout. Exit status 1 if a
disguise changed what a model says, 3 if something could not be had.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

_CACHE = Path(__file__).resolve().parents[1] / ".cache"


def main() -> int:
    options = _options()
    if not (options.make or options.score or options.parents):
        print("attacks: nothing to do; say --make, --score or --parents", file=sys.stderr)
        return 2
    status = _make(options) if options.make else 0
    status = status or (_score(options) if options.score else 0)
    return status or (_parents(options) if options.parents else 0)


def _make(options: argparse.Namespace) -> int:
    import matrix
    from bench import Bench, chosen
    from workshop import workshop

    names = options.only or sorted(
        path.name.removesuffix(".truth.json") for path in options.zoo.glob("*.truth.json")
    )
    for name in names:
        try:
            shop = workshop(options.zoo, name)
            bench = Bench(shop, chosen(shop), options.out / name, options.dtype, _say)
            rows = matrix.plan(bench, options.small)
            rows = [row for row in rows if not options.rows or row.name in options.rows]
            document = matrix.make_family(bench, rows, options.go_on)
        except matrix.MakingError as error:
            print(f"attacks: {error}", file=sys.stderr)
            return 1
        except (OSError, ValueError) as error:
            print(f"attacks: {name}: {error}", file=sys.stderr)
            return 3
        print(f"{name}: {len(document['made'])} made, {len(document['models'])} beside", flush=True)
    return 0


def _score(options: argparse.Namespace) -> int:
    import scoring
    from answers import Answers

    asked = scoring.Questions(
        options.out, scoring.families(options.out, options.only), options.rows, options.strangers,
        options.seed, options.jobs, ours=not options.peers_only, peers=not options.no_peers,
        modeldna=options.modeldna,
    )  # fmt: skip
    try:
        answers = Answers(options.answers or options.out / "answers.jsonl")
        pairs = scoring.score(asked, answers, _say)
        if options.json:
            told = json.dumps(scoring.document(asked, pairs), indent=1)
            options.json.write_text(told + "\n")
        for drawn in scoring.draw(pairs, options.pictures) if options.pictures else ():
            _say(f"drew {drawn}")
    except KeyboardInterrupt:
        print("attacks: interrupted; what was said is kept", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"attacks: {error}", file=sys.stderr)
        return 3
    print(scoring.markdown(pairs))
    return 0


def _parents(options: argparse.Namespace) -> int:
    import parents
    import scoring

    try:
        children = parents.run(
            options.out, scoring.families(options.out, options.only), rows=options.rows,
            python=scoring.PYTHON, cores=options.jobs, say=_say,
        )  # fmt: skip
    except OSError as error:
        print(f"attacks: {error}", file=sys.stderr)
        return 3
    if options.json:
        told = {"_type": "lineage-attacks-parents-v1", "children": parents.document(children)}
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    print(parents.markdown(children))
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/attacks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--make", action="store_true", help="make the models of the matrix")
    parser.add_argument("--score", action="store_true", help="ask about the models of the matrix")
    parser.add_argument("--parents", action="store_true", help="infer whom each model comes from")
    parser.add_argument("--zoo", type=Path, default=_CACHE / "zoo", help="where families lie")
    parser.add_argument("--out", type=Path, default=_CACHE / "attacks", help="where models go")
    parser.add_argument("--only", nargs="+", default=[], metavar="FAMILY", help="these families")
    parser.add_argument("--small", action="store_true", help="no limits and three follow-ups")
    parser.add_argument("--go-on", action="store_true", help="keep what an interrupted run made")
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="only these models")
    parser.add_argument("--dtype", default="F32", choices=("F32", "BF16", "F16"),
                        help="what disguised weights are stored in")  # fmt: skip
    parser.add_argument("--strangers", type=int, default=600, help="negative pairs of a family")
    parser.add_argument("--seed", type=int, default=0, help="draw other negative pairs")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--peers-only", action="store_true", help="do not ask lineage itself")
    parser.add_argument("--no-peers", action="store_true", help="ask nobody but lineage")
    parser.add_argument("--modeldna", metavar="PYTHON", help="of an environment that has modeldna")
    parser.add_argument("--answers", type=Path, metavar="FILE",
                        help="where answers are kept; else answers.jsonl in OUT")  # fmt: skip
    parser.add_argument("--json", type=Path, help="what was said of every pair")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the pictures here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
