"""Runs many commands of `lineage` one after the other, so that the package is imported once.

Every line of stdin is a JSON list of arguments; for each, one line of JSON goes to stdout: what the
command printed, the last line of what it said on stderr, and seconds of the processor.
"""

from __future__ import annotations

import io
import json
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

from lineage.cli import run


def main() -> int:
    for line in sys.stdin:
        said, words = io.StringIO(), io.StringIO()
        begun = time.process_time()
        with redirect_stdout(said), redirect_stderr(words):
            status = run(json.loads(line))
        seconds = round(time.process_time() - begun, 3)
        last = (words.getvalue().strip().splitlines() or [f"exit status {status}"])[-1]
        told = {"out": said.getvalue(), "last": last, "seconds": seconds}
        print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
