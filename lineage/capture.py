"""Three lines around a training loop: a signed claim that names the base by its digest.

    from lineage.capture import derivation

    with derivation(model, key="maker.pem", out="my-model.claim.json"):
        train(model)

The base is fingerprinted on entering, before training can touch it, and the child on leaving; what
the child is to its base is measured, not asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage import claims
from lineage.audit import draft
from lineage.claims import Claim, Dataset, Split
from lineage.files import write_whole
from lineage.fingerprints import Fingerprint, fingerprint
from lineage.signing import Ed25519Key, Envelope

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


@dataclass(slots=True)
class Derivation:
    """What a training run leaves behind; `child` and `envelope` are set when it ended well.

    Attributes:
        base: Fingerprint of the model training started from.
        child: Fingerprint of the model it ended with.
        claim: What is claimed.
        envelope: The claim, signed.
    """

    base: Fingerprint
    child: Fingerprint | None = None
    claim: Claim | None = None
    envelope: Envelope | None = None


@contextmanager
def derivation(
    model: Any,
    *,
    key: Ed25519Key | str | PathLike[str],
    out: str | PathLike[str] | None = None,
    name: str = "model",
    base: Fingerprint | str | PathLike[str] | Any = None,
    base_name: str = "base",
    splits: Sequence[Split] = (),
    rate: Fraction = Fraction(0),
    datasets: Sequence[Dataset] = (),
) -> Iterator[Derivation]:
    """Record that training turns one model into another, and sign it.

    Args:
        model: A torch module, or a mapping of names to tensors or arrays. It is fingerprinted on
            entering and again on leaving, so it must hold the trained weights then.
        key: The signer's key, or the path of its PEM file.
        out: Where to write the signed claim; None writes nothing.
        name: What the new model is called.
        base: What training starts from, where that is not `model` itself: a path or fingerprint.
        base_name: What the base is called; its digest is what counts.
        splits: Who shares what the new model earns; the signer alone if empty.
        rate: The part of a descendant's revenue owed to the new model.
        datasets: What it was trained on.

    Yields:
        A `Derivation`. If the block raises, nothing is signed or written.

    Raises:
        ContradictionError: If the weights on leaving are not derived from those on entering.
    """
    signer = key if isinstance(key, Ed25519Key) else Ed25519Key.load(Path(key))
    run = Derivation(base=fingerprint(model if base is None else base))
    yield run
    run.child = fingerprint(model)
    shares = tuple(splits) or (Split(signer.key_id, "trainer", Fraction(1)),)
    run.claim = draft(
        name,
        run.child,
        {base_name: run.base},
        splits=shares,
        rate=rate,
        datasets=datasets,
    )
    run.envelope = claims.sign(run.claim, signer)
    if out is not None:
        write_whole(Path(out), run.envelope.to_bytes())
