"""The same three lines around a torch module: its state dict is read where it lies.

The module predicts the next byte of text from the eight before it. So small and so briefly trained
a network does not show which of two came first, and the claim's verification says so.
"""

import argparse
import inspect
from pathlib import Path
from pydoc_data import topics
from tempfile import TemporaryDirectory

import torch

import lineage
from lineage.capture import derivation
from lineage.claims import Policy
from lineage.signing import Ed25519Key


def train(model: torch.nn.Module, text: str, steps: int) -> float:
    """Train on one text; return the last loss in nats per byte."""
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(steps):
        at = torch.randint(0, len(data) - 9, (64, 1)) + torch.arange(9)
        loss = torch.nn.functional.cross_entropy(model(data[at[:, :8]]), data[at[:, 8]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def main(folder: Path) -> None:
    """Train a base, derive a child from it, and check the claim against the weights."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(256, 32),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 192),
        torch.nn.GELU(),
        torch.nn.Linear(192, 256),
    )
    print(f"base:  loss {train(model, inspect.getsource(argparse), 300):.2f}")

    key = Ed25519Key.generate()
    with derivation(model, key=key, out=folder / "child.claim.json", name="child") as run:
        loss = train(model, "".join(topics.topics.values()), 60)

    print(f"child: loss {loss:.2f}")
    policy = Policy((key.public,))
    verified = lineage.verify(run.envelope, policy, weights=model, parents=[run.base])
    edge = verified.edges[0]
    print(f"claim: {edge.relation} of {edge.parent[:12]}, confirmed by weights: {edge.confirmed}")


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
