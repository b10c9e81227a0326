"""The verb that shows all the others: `demo`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lineage.cli import say
from lineage.cli.options import json_option


@click.command(short_help="Train a family of small networks, and show what they tell.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lineage-demo"),
    show_default=True,
    help="Where to leave the models, claims, log and pictures.",
)
@click.option("--seed", default=0, show_default=True, help="Chooses every weight and batch.")
@json_option
def demo(out: Path, seed: int, as_json: bool) -> None:
    """Train a family of small networks, and show what their weights tell.

    Needs no network and no torch. It really trains: a base, two generations of fine-tunes, a merged
    LoRA, a linear merge, a quantized copy, a mirror, a stranger, and two models whose declared
    parent is false.

    \b
    Example:
        lineage demo --out ./lineage-demo
    """
    # So small matrices are multiplied faster by one thread than by several that wait for each
    # other, many times so where other programs run. Read when NumPy is first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from lineage.cli.measure import graph_text
    from lineage.demo.story import EARNER, tell

    def progress(words: str) -> None:
        if say.interactive():
            click.echo(f"\r\033[K{words} ...", nl=False, err=True)

    done = tell(out, seed=seed, progress=progress)
    if say.interactive():
        click.echo("\r\033[K", nl=False, err=True)
    document = {
        **done.graph.to_json(),
        "declared": [verdict.to_json() for verdict in done.verdicts],
        "refused": dict(done.refused),
        "payouts": [{"payee": p.payee, "amount": p.amount} for p in done.settlement.payouts],
        "seconds": {stage: round(seconds, 2) for stage, seconds in done.seconds.items()},
        "files": [str(path) for path in done.files],
    }
    losses = done.truth.members["base"].losses
    assert losses is not None
    paid = done.settlement

    def text() -> str:
        lines = [
            f"Trained {len(done.graph.nodes)} small networks in {done.seconds['train']:.0f} s "
            f"(base: loss {losses[0]:.2f} -> {losses[1]:.2f}). From the weights alone:",
            "",
            *(f"  {line}" for line in graph_text(done.graph, list(done.verdicts)).splitlines()),
            "",
            f"{len(done.accepted)} signed claims accepted, {len(done.refused)} refused "
            f"({', '.join(sorted(done.refused))}); {done.log_size} logged, one receipt checked "
            "without the log.",
            f"{EARNER} earned {paid.amount:,} {paid.unit}s: "
            + ", ".join(f"{p.payee} {p.amount:,}" for p in paid.payouts)
            + ".",
            "",
            "Look at " + ", ".join(str(path) for path in done.files),
            "",
            "Next, on your own models:",
            "  lineage infer ./models --svg family.svg",
            "  lineage compare ./base ./my-model",
            "  lineage key me.key && lineage claim ./my-model --parent ./base --key me.key",
        ]
        return "\n".join(lines)

    say.result(document, text, as_json=as_json)
