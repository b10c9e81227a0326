"""The measuring verbs: `fingerprint`, `compare`, `infer`."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from lineage.cli import say
from lineage.errors import FormatError, LineageError, printable
from lineage.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lineage.audit import Verdict
    from lineage.fingerprints import Fingerprint
    from lineage.graph import LineageGraph


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Save the fingerprint here.")
@click.option("--exact", "tier", flag_value="exact", help="Identity alone, no sketch: fastest.")
@click.option("--fast", "tier", flag_value="fast", help="Sketch one block of rows in eight.")
@click.option("--digests", is_flag=True, help="Also SHA-256 of files, as hubs and signers have it.")
@click.option("--no-cache", is_flag=True, help="Measure again what has not changed since.")
@say.json_option
def fingerprint(
    paths: tuple[str, ...],
    output: Path | None,
    tier: str | None,
    *,
    digests: bool,
    no_cache: bool,
    as_json: bool,
) -> int:
    """Print the exact identity of models, and save what comparisons need.

    PATH is a weight file (safetensors, PyTorch, TorchScript, GGUF, ONNX, NumPy, HDF5 or Keras), a
    folder with one model, a folder of models, or a name on a hub: org/name[@revision], hf://...
    With several models, -o names a folder. An interrupted run goes on where it was.

    \b
    Example:
        lineage fingerprint ./my-model -o my-model.lineage
    """
    from lineage.artifacts import models_in

    status = 0
    rows: list[dict[str, Any]] = []
    models: list[str] = []
    for path in paths:
        try:
            models += models_in(path)
        except (LineageError, OSError) as error:
            if len(paths) == 1:
                raise
            say.note(f"lineage: {_described(error, path)}")
            status = 3
    targets = _targets(models, output)
    for path in models:
        try:
            made, seconds = _timed(path, tier or "full", cache=not no_cache)
            if output is not None:
                _save(made, targets[path])
        except (LineageError, OSError) as error:
            if len(models) == len(paths) == 1:
                raise
            say.note(f"lineage: {_described(error, path)}")
            status = 3
            continue
        rows.append(
            {
                "path": path,
                "id": made.root,
                "content_id": made.content_id,
                "value_id": made.value_id,
                "bytes": made.size_bytes,
                "tensors": len(made.tensors),
                "seconds": round(seconds, 4),
                "scheme": made.scheme,
                "warnings": list(made.warnings),
            }
        )
        if digests:
            rows[-1]["digests"] = _digests(path)
    say.result({"fingerprints": rows}, lambda: _fingerprint_text(rows), as_json=as_json)
    return status


def _digests(path: str) -> dict[str, Any]:
    from lineage.artifacts.digests import file_digests

    return file_digests(path).to_json()


def _fingerprint_text(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        size = _size(row["bytes"])
        lines.append(f"{row['id']}  {printable(row['path'])}  {row['tensors']} tensors, {size}")
        found = row.get("digests", {"files": []})
        lines += [f"  sha256 {f['sha256']}  {printable(f['name'])}" for f in found["files"]]
        if found.get("oms"):
            lines.append(f"  model-signing subject sha256 {found['oms']['sha256']}")
    return "\n".join(lines)


@click.command()
@click.argument("a")
@click.argument("b")
@say.json_option
def compare(a: str, b: str, as_json: bool) -> int:
    """Say what two models are to each other, and why.

    A and B are models or saved fingerprints. Exit status 0 if they are related, 1 if not, 3 if
    it cannot be said.

    \b
    Example:
        lineage compare ./base ./my-model
    """
    from lineage.evidence import compare_fingerprints

    found = compare_fingerprints(load(a, cache=True), load(b, cache=True))
    document = {"a": a, "b": b, **found.to_json()}
    told = [evidence.told(_name(a), _name(b)) for evidence in found.evidence]
    say.result(document, lambda: _compare_text(a, b, document, told), as_json=as_json)
    return {True: 0, False: 1, None: 3}[found.related]


def _compare_text(a: str, b: str, found: dict[str, Any], told: list[str]) -> str:
    first, second = printable(a), printable(b)
    verdict = {True: "related", False: "not related", None: "undetermined"}[found["related"]]
    lines = [f"{first}  and  {second}: {verdict}"]
    if found["relation"] is not None:
        how = f" ({found['how']})" if found["how"] else ""
        arrow = {
            "a->b": f"{first} -> {second}",
            "b->a": f"{second} -> {first}",
            None: "direction undetermined",
        }[found["direction"]]
        arrow = "the same weights" if found["relation"] == "identical" else arrow
        lines.append(f"  {found['relation']}{how}: {arrow}")
    lines += [f"  - {printable(words)}" for words in told]
    if found["log10_p"] is not None:
        lines.append(f"  p = 10^{found['log10_p']:.1f} under {found['null']}")
    return "\n".join(lines)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the graph into this file.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page about it here.")
@click.option("--mermaid", type=click.Path(path_type=Path), help="Write it as Mermaid text here.")
@say.json_option
def infer(
    paths: tuple[str, ...], svg: Path | None, html: Path | None, mermaid: Path | None, as_json: bool
) -> int:
    """Infer who came from whom among models, from their weights alone.

    PATH is a model, a saved fingerprint, or a folder of either. Parents that model cards declare
    are held against the weights. A model that cannot be read is left out, and the exit status is 3.

    \b
    Example:
        lineage infer ./models --svg family.svg
    """
    from lineage import report
    from lineage.artifacts import models_in
    from lineage.audit import judge
    from lineage.declared import read_declared
    from lineage.graph import infer_graph

    status = 0
    models: dict[str, Fingerprint] = {}
    declared_by = {}
    found = [path for named in paths for path in models_in(named)]
    for path in found:
        try:
            models[path] = load(path, cache=True)
            declared_by[path] = read_declared(path)
        except (LineageError, OSError) as error:
            if len(found) == 1:
                raise
            what = "its card" if path in models else "the model"
            say.note(f"lineage: {what} is left out: {_described(error, path)}")
            status = 3
    graph = infer_graph(models)
    verdicts = judge(graph, declared_by)
    document = {**graph.to_json(), "declared": [v.to_json() for v in verdicts]}
    declared = tuple(report.Declared(v.child, v.parent, v.verdict, v.words) for v in verdicts)
    for target, draw in ((svg, report.svg), (html, report.html), (mermaid, report.mermaid)):
        if target is not None:
            write_whole(target, draw(document, declared).encode())
            say.note(f"wrote {target}")
    say.result(document, lambda: graph_text(graph, verdicts), as_json=as_json)
    return status


def graph_text(graph: LineageGraph, verdicts: list[Verdict]) -> str:
    """Return a graph as an indented tree per family, then what the weights contradict."""
    lines: list[str] = []
    children: dict[str, list[Any]] = {}
    for edge in graph.edges:
        children.setdefault(edge.parent, []).append(edge)
    with_parents = {edge.child for edge in graph.edges}
    shown: set[str] = set()

    def show(path: str, depth: int, label: str) -> None:
        again = " (see above)" if path in shown and path in children else ""
        lines.append(f"{'  ' * depth}{_name(path)}{label}{again}")
        if path in shown:
            return
        shown.add(path)
        for edge in children.get(path, []):
            how = f" {edge.how}" if edge.how else ""
            share = "" if edge.coefficient is None else f" {edge.coefficient:.2f}"
            sure = f"p={edge.probability:.2f}"
            if edge.relation == "identical":
                sure = "(which came first is not in the weights)"
            show(edge.child, depth + 1, f"  {edge.relation}{how}{share}  {sure}")

    for node in graph.nodes:
        if node.path not in with_parents:
            show(node.path, 0, "")
    lines += [
        f"undetermined: {_name(unclear.a)} and {_name(unclear.b)}: {unclear.why}"
        for unclear in graph.undetermined
    ]
    for verdict in verdicts:
        if verdict.verdict == "contradicted":
            words = f"{_name(verdict.child)} declares {_name(verdict.parent)}; {verdict.words}"
            lines.append(f"contradicted: {words}")
    return "\n".join(lines)


def load(path: str, *, cache: bool = False) -> Fingerprint:
    """Fingerprint a model or load a saved one, saying on stderr what a person should know."""
    return _timed(path, "full", cache=cache)[0]


def _timed(path: str, tier: str, *, cache: bool) -> tuple[Fingerprint, float]:
    from lineage.fingerprints import fingerprint as make

    started = time.perf_counter()
    with _progress(path) as advance:
        made = make(path, tier=tier, cache=cache, progress=advance)
    for line in made.warnings:
        say.note(f"{printable(path)}: {printable(line)}")
    return made, time.perf_counter() - started


@contextmanager
def _progress(path: str) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on stderr while somebody watches and the model is large."""
    total = _bytes_at(path) if say.interactive() else 0
    if total < 256_000_000:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(PurePath(path).name), total=total)
        yield lambda size: bar.advance(task, size)


def _bytes_at(path: str) -> int:
    """Return the bytes of a model's tensors; only headers are read."""
    from lineage.artifacts import read
    from lineage.fingerprints import SUFFIX

    if Path(path).suffix == SUFFIX:
        return 0
    with read(path) as artifact:
        return artifact.size_bytes


def _save(made: Fingerprint, path: Path) -> None:
    """Write a fingerprint, into a new folder if need be."""
    from lineage.fingerprints import save

    if path.is_dir():
        raise FormatError("a folder; name a file for one fingerprint", file=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(made, path)


def _targets(models: list[str], output: Path | None) -> dict[str, Path]:
    """Return where each fingerprint goes: one into the file named, several into that folder.

    Names are as many of a path's last parts as it takes to tell the models apart.
    """
    if output is None or len(models) == 1:
        return {path: output or Path() for path in models}
    parts = {
        path: [p for p in PurePath(path).parts if p not in {"/", "..", "."}] for path in models
    }
    for count in range(1, 1 + max(map(len, parts.values()), default=0)):
        names = {path: "-".join(found[-count:]) for path, found in parts.items()}
        if len(set(names.values())) == len(names):
            break
    else:
        names = {path: f"{number}-{'-'.join(parts[path])}" for number, path in enumerate(models)}
    return {path: output / f"{name}.lineage" for path, name in names.items()}


def _described(error: Exception, path: str) -> str:
    if isinstance(error, OSError):
        where = path if error.filename is None else str(error.filename)
        return f"{printable(where)}: {error.strerror or error}"
    return str(error)


def _name(path: str) -> str:
    return printable(PurePath(path).name)


def _size(size_bytes: int) -> str:
    size, unit = float(size_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
