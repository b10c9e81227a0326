"""The measuring verbs: `fingerprint`, `compare`, `infer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lineage.cli import prints, say
from lineage.cli.options import json_option
from lineage.errors import LineageError, printable
from lineage.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.audit import Verdict
    from lineage.evidence import Comparison
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint
    from lineage.graph import LineageGraph


_OUTPUT = click.Path(path_type=Path, readable=False)
"""Where something is written: what lies there need not be readable."""

_WHOLE = 0.99
"""Of whom so much is the other's, it is whole but for vectors, which are in no part."""

_DEEP = "Read some weights again, for what fingerprints do not tell."


@click.command(short_help="Print the exact identity of models; save what comparing needs.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-o", "--output", type=_OUTPUT, help="Save the fingerprint here.")
@click.option("--exact", "tier", flag_value="exact", help="Identity alone, no sketch: fastest.")
@click.option("--fast", "tier", flag_value="fast", help="Sketch one block of rows in eight.")
@click.option("--digests", is_flag=True, help="Also SHA-256 of files, as hubs and signers have it.")
@click.option("--neurons", is_flag=True, help="Keep what finds relatives in other coordinates.")
@click.option("--no-cache", is_flag=True, help="Measure again what has not changed since.")
@click.option("--base", metavar="BASE", help="Of adapters that are told with it alone (VeRA).")
@json_option
def fingerprint(
    paths: tuple[str, ...],
    output: Path | None,
    tier: str | None,
    *,
    digests: bool,
    neurons: bool,
    no_cache: bool,
    base: str | None,
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
    return prints.fingerprint(
        paths,
        output,
        tier,
        digests=digests,
        neurons=neurons,
        no_cache=no_cache,
        as_json=as_json,
        base=base,
    )


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--explain", is_flag=True, help="Tell all that was looked at, with controls.")
@click.option("--deep", is_flag=True, help=_DEEP)
@click.option("--base", metavar="BASE", help="Of an adapter and a model: what that was made from.")
@click.option(
    "--adapter", "adapters", multiple=True, metavar="X", help="Is this adapter in A, made of B?"
)
@json_option
def compare(
    a: str,
    b: str,
    *,
    explain: bool,
    deep: bool,
    base: str | None,
    adapters: tuple[str, ...],
    as_json: bool,
) -> int:
    """Say what two models are to each other, and why.

    A and B are models or saved fingerprints. Exit status 0 if they are related, 1 if not, 3 if
    it cannot be said. With --explain it also tells what was looked for and was not there, how the
    change compares with roundings, what the direction rests on, and, as controls, what the same
    test says of models made of B's numbers that are unrelated to A. Where only parts of the two are
    one, a layer, the embeddings, a tower, it says which and what share of each these are, and not
    that the two are related (exit status 3). Models that have nothing in common as they are stored
    are held against each other in other coordinates, too. If one of the two is an adapter, --base
    names what the other was made from; it then says whether the adapter was merged, or extracted
    from the model.

    With --adapter, given once or more, A is a model with adapters merged into B, or an adapter
    that was put together from B and others: told is which of them are in A, and with what weight.
    Exit status 0 if one is, 1 if none is, 3 if it cannot be said.

    \b
    Example:
        lineage compare ./base ./my-model --explain
        lineage compare ./merged ./base --adapter ./one-lora --adapter ./other-lora
    """
    from lineage.evidence import compare_fingerprints

    one, other = (load(path, cache=True, base=base) for path in (a, b))
    if base is not None:
        if explain or adapters:
            given = "--explain" if explain else "--adapter"
            raise click.UsageError(f"{given} does not go with --base: leave out --base")
        found = _over_base(a, b, base, one, other, deep=deep)
    else:
        found = compare_fingerprints(one, other)
    if adapters:
        from lineage.cli.adapters import told_of

        return told_of(a, b, adapters, one, other, found, as_json=as_json)
    if base is None:
        found = _further(found, (a, b), (one, other), deep=deep)
    document = {"a": a, "b": b, **found.to_json()}
    called = say.names(a, b)
    told = [f"- {evidence.told(*called)}" for evidence in found.evidence]
    more = []
    if explain:
        from lineage.evidence.explained import explain as explained

        why = explained(one, other, found)
        document["explanation"] = why.to_json()
        more = why.lines(*called)
    say.result(document, lambda: _compare_text(a, b, document, told, more), as_json=as_json)
    return {True: 0, False: 1, None: 3}[found.related]


def _further(
    found: Comparison,
    paths: tuple[str, str],
    prints: tuple[Fingerprint, Fingerprint],
    *,
    deep: bool,
) -> Comparison:
    """Read weights where asked to, and in other coordinates where those stored do not tell all."""
    from lineage.evidence.folded import are_folded

    if deep:
        from lineage.evidence.deeper import deepened

        found = deepened(found, *prints, _weights(dict(zip("ab", paths, strict=True))))
    if found.related and not are_folded(*prints):
        return found
    from lineage.graph.elsewhere import elsewhere, is_open

    models = dict(zip(paths, prints, strict=True))
    if not is_open(found, *models.values()):
        return found
    with say.watching("looking in other coordinates") as watch:
        return elsewhere(found, models, _weights({path: path for path in models}), watch)


def _over_base(
    a: str, b: str, base: str, one: Fingerprint, other: Fingerprint, *, deep: bool
) -> Comparison:
    from lineage.evidence.adapted import over_base

    weights = _weights({"a": a, "b": b, "base": base}) if deep else None
    try:
        return over_base(one, other, load(base, cache=True), weights)
    except ValueError as error:
        raise click.UsageError(f"--base: {error}") from error


def _compare_text(a: str, b: str, found: dict[str, Any], told: list[str], more: list[str]) -> str:
    first, second = printable(a), printable(b)
    verdict = {True: "related", False: "not related", None: "undetermined"}[found["related"]]
    if found["related"] is None and found["relation"] is not None:
        verdict = "related in parts"
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
    lines += [f"  {printable(words)}" for words in told]
    shares = found["shares"]
    if _is_told(found):
        one, other = say.names(a, b)
        lines.append(
            f"  share: {shares['share_b']:.1%} of {other}'s values are {one}'s, "
            f"{shares['share_a']:.1%} of {one}'s are {other}'s"
        )
        if found["related"] is None:
            lines += [
                f"    {printable(part['b'])} is {printable(part['a'])}: "
                + ("the same" if part["equal"] else f"cosine {part['cosine']:.3f}")
                for part in shares["parts"]
            ]
    if found["log10_p"] is not None:
        lines.append(f"  p = 10^{found['log10_p']:.1f} under {found['null']}")
    return "\n".join([*lines, *(f"  {printable(words)}" for words in more)])


def _is_told(found: dict[str, Any]) -> bool:
    """Whether the shares say more than that the two are related."""
    shares = found["shares"]
    if shares is None or not shares["parts"]:
        return False
    return found["related"] is None or min(shares["share_a"], shares["share_b"]) < _WHOLE


@click.command(short_help="Infer who came from whom among models.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the graph into this file.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page about it here.")
@click.option("--mermaid", type=click.Path(path_type=Path), help="Write it as Mermaid text here.")
@click.option("--deep", is_flag=True, help=_DEEP)
@json_option
def infer(
    paths: tuple[str, ...],
    svg: Path | None,
    html: Path | None,
    mermaid: Path | None,
    *,
    deep: bool,
    as_json: bool,
) -> int:
    """Infer who came from whom among models, from their weights alone.

    PATH is a model, a saved fingerprint, or a folder of either. Parents that model cards declare
    are held against the weights. A model that cannot be read is left out, and the exit status is 3.
    With --deep some rows of the models that matter are read besides their fingerprints: which model
    decayed further, and which values of a merge are whose.

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
            say.note(f"lineage: {what} is left out: {prints.described(error, path)}")
            status = 3
    weights = _weights({path: path for path in models})
    with say.watching("comparing") as watch:
        graph = infer_graph(models, weights=weights, deep=deep, watch=watch)
    verdicts = judge(graph, declared_by)
    document = {**graph.to_json(), "declared": [v.to_json() for v in verdicts]}
    declared = tuple(report.Declared(v.child, v.parent, v.verdict, v.words) for v in verdicts)
    for target, draw in ((svg, report.svg), (html, report.html), (mermaid, report.mermaid)):
        if target is not None:
            write_whole(target, draw(document, declared).encode())
            say.note(f"wrote {target}")
    say.result(document, lambda: graph_text(graph, verdicts), as_json=as_json)
    return status


def _weights(sources: Mapping[str, str]) -> Weights:
    from lineage.evidence.weights import Weights

    return Weights.of(sources)


def graph_text(graph: LineageGraph, verdicts: list[Verdict]) -> str:
    """Return a graph as an indented tree per family, then what the weights contradict."""
    paths = [node.path for node in graph.nodes]
    names = dict(zip(paths, say.names(*paths), strict=True))
    lines: list[str] = []
    children: dict[str, list[Any]] = {}
    for edge in graph.edges:
        children.setdefault(edge.parent, []).append(edge)
    with_parents = {edge.child for edge in graph.edges}
    shown: set[str] = set()

    def show(path: str, depth: int, label: str) -> None:
        again = " (see above)" if path in shown and path in children else ""
        lines.append(f"{'  ' * depth}{names[path]}{label}{again}")
        if path in shown:
            return
        shown.add(path)
        for edge in children.get(path, []):
            how = f" {edge.how}" if edge.how else ""
            share = "" if edge.coefficient is None else f" {edge.coefficient:.2f}"
            if edge.then is not None:
                how += f", then {edge.then[0]}" + (f" {edge.then[1]}" if edge.then[1] else "")
            sure = f"p={edge.probability:.2f}"
            if edge.relation == "identical":
                sure = "(which came first is not in the weights)"
            show(edge.child, depth + 1, f"  {edge.relation}{how}{share}  {sure}")

    for node in graph.nodes:
        if node.path not in with_parents:
            show(node.path, 0, "")
    lines += [
        f"undetermined: {names[unclear.a]} and {names[unclear.b]}: {unclear.why}"
        for unclear in graph.undetermined
    ]
    for verdict in verdicts:
        if verdict.verdict == "contradicted":
            parent = names.get(verdict.parent) or say.names(verdict.parent)[0]
            words = f"{names[verdict.child]} declares {parent}; {verdict.words}"
            lines.append(f"contradicted: {words}")
    return "\n".join(lines)


def load(path: str, *, cache: bool = False, base: str | None = None) -> Fingerprint:
    """Fingerprint a model or load a saved one, saying on stderr what a person should know."""
    return prints.timed(path, "full", cache=cache, base=base)[0]
