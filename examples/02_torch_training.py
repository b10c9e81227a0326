"""The same three lines around a torch module: its state dict is read where it lies."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import lineage
from lineage.capture import derivation
from lineage.claims import Policy
from lineage.signing import Ed25519Key


def train(model: torch.nn.Module, steps: int, seed: int) -> float:
    """Teach the network to undo a fixed random rotation."""
    source = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(48, 48, generator=source))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    for _ in range(steps):
        x = torch.randn(128, 48, generator=source)
        loss = torch.nn.functional.mse_loss(model(x @ turn), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(48, 160), torch.nn.GELU(), torch.nn.Linear(160, 48)
    )
    print(f"base:  loss {train(model, 1500, seed=1):.3f}")

    key = Ed25519Key.generate()
    with derivation(model, key=key, out=folder / "child.claim.json", name="child") as run:
        loss = train(model, 40, seed=2)

    print(f"child: loss {loss:.3f}")
    verified = lineage.verify(
        run.envelope, Policy((key.public,)), weights=model, parents=[run.base]
    )
    edge = verified.edges[0]
    print(f"claim: {edge.relation} of {edge.parent[:12]}, confirmed by weights: {edge.confirmed}")


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
