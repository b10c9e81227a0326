"""The parser alone: `python parse.py FILE PROCESSES` parses every record and keeps none."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path


def parse_lines(path: str, part: int, parts: int) -> int:
    """Parse one part of a file of JSON lines."""
    size = Path(path).stat().st_size
    start, end = size * part // parts, size * (part + 1) // parts
    count = 0
    with Path(path).open("rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()
        while file.tell() < end:
            lines = file.readlines(min(1 << 22, end - file.tell()))
            for line in lines:
                json.loads(line)
            count += len(lines)
    return count


def parse_parquet(path: str, cores: int) -> int:
    """Decode a Parquet file, with the threads that Arrow has for it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(cores)
    with pq.ParquetFile(path) as file:
        return sum(b.num_rows for b in file.iter_batches(use_threads=cores > 1))


def main() -> None:
    """Parse a file with so many processes or threads."""
    path, cores = sys.argv[1], int(sys.argv[2])
    if path.endswith(".parquet"):
        print(parse_parquet(path, cores))
    elif cores == 1:
        print(parse_lines(path, 0, 1))
    else:
        with multiprocessing.get_context("fork").Pool(cores) as pool:
            print(sum(pool.starmap(parse_lines, [(path, i, cores) for i in range(cores)])))


if __name__ == "__main__":
    main()
