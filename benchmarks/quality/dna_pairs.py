"""Runs inside the environment of `modeldna`: paths in, what it says of every pair out.

    echo '{"name": "path", ...}' | python dna_pairs.py

The same steps as its command `compare`, with each model fingerprinted once.
"""

import json
import sys
from itertools import combinations

from modeldna.compare import compare_fingerprints
from modeldna.fingerprint import extract_fingerprint
from modeldna.io.source import open_source
from modeldna.verdict import judge


def main() -> None:
    prints = {}
    for name, path in json.load(sys.stdin).items():
        try:
            prints[name] = extract_fingerprint(open_source(path), model_id=name)
        except Exception as error:  # noqa: BLE001 - whatever a peer cannot read is only left out
            print(f"{name}: {error}", file=sys.stderr)
    told = []
    for a, b in combinations(sorted(prints), 2):
        seen = compare_fingerprints(prints[a], prints[b])
        dtypes = prints[a].arch.torch_dtype, {b: prints[b].arch.torch_dtype}
        verdict = judge([(seen, b)], suspect_dtype=dtypes[0], candidate_dtypes=dtypes[1])
        told.append(
            {"a": a, "b": b, "probability": verdict.probability, "cosine": seen.pcs_cos_mean}
        )
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
