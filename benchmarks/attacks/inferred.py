"""Infers who came from whom among many sets of models, each fingerprinted once.

Every line of stdin is a JSON list of paths; for each, one line of JSON goes to stdout: the `graph`,
as `lineage infer --json` prints it, and the `seconds` that it took, fingerprints apart; or why it
`failed`.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from time import perf_counter

from lineage import fingerprint
from lineage.errors import LineageError
from lineage.evidence.weights import Weights
from lineage.graph import infer_graph

known = cache(fingerprint)


def main() -> int:
    for line in sys.stdin:
        paths = json.loads(line)
        try:
            models = {path: known(path) for path in paths}
            start = perf_counter()
            graph = infer_graph(models, weights=Weights.of({path: path for path in paths}))
            told = {"graph": graph.to_json(), "seconds": perf_counter() - start}
        except LineageError as error:
            told = {"failed": str(error)}
        print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
