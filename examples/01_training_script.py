"""Three lines around a training loop give a signed claim that names the base by its digest.

The model is a small language model in NumPy, really trained by gradient descent on text that ships
with Python. A torch module works the same way (see 02_torch_training.py).
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import lineage
from lineage.capture import derivation
from lineage.claims import Policy
from lineage.demo.family import corpus
from lineage.demo.network import Schedule, Shape, initial, train
from lineage.signing import Ed25519Key

SHAPE = Shape(width=48, layers=1, heads=2, hidden=96, context=32)


def main(folder: Path) -> None:
    """Train a base, derive a child from it, and check the claim against the weights."""
    rng = np.random.default_rng(7)
    start = initial(SHAPE, rng)
    model, losses = train(start, corpus("general"), SHAPE, Schedule(150, 6e-3, decay=0.5), rng)
    print(f"base:  loss {losses[0]:.2f} -> {losses[-1]:.2f}")

    key = Ed25519Key.generate()
    with derivation(model, key=key, out=folder / "child.claim.json", name="child") as run:
        trained, losses = train(model, corpus("docs"), SHAPE, Schedule(40, 3e-3), rng)
        model.update(trained)

    print(f"child: loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    policy = Policy((key.public,))
    verified = lineage.verify(run.envelope, policy, weights=model, parents=[run.base])
    edge = verified.edges[0]
    print(f"claim: {edge.relation} of {edge.parent[:12]}, confirmed by weights: {edge.confirmed}")


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
