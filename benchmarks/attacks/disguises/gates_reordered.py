"""An LSTM stored as ONNX stores it: gates in the order input, output, forget, cell.

Arrays get ONNX's names of the operator's inputs (W, R, B) and its shapes; both biases are in B.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from networks import Maps, Network
from others import GATES

ORDER = np.array([GATES.index(gate) for gate in ("input", "output", "forget", "cell")])


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "recurrent"


def hide(network: Network, _rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network under other names, and what was done."""
    parts = {n: p for n, p in network.parts.items() if not n.startswith("lstm.")}
    for layer in range(sum(n.startswith("lstm.weight_hh") for n in network.parts)):
        for end, letter in (("weight_ih", "W"), ("weight_hh", "R")):
            value = network.parts[f"lstm.{end}_l{layer}"][ORDER]
            parts[f"rnn.{layer}.{letter}"] = value.reshape(1, -1, value.shape[-1])
        both = [network.parts[f"lstm.bias_{end}_l{layer}"][ORDER].ravel() for end in ("ih", "hh")]
        parts[f"rnn.{layer}.B"] = np.concatenate(both)[None]
    axes = {name: tuple(f"{name}/{i}" for i in range(p.ndim)) for name, p in parts.items()}
    config = {**network.config, "model_type": "lstm-onnx"}
    return replace(network, parts=parts, axes=axes, config=config), {"order/gates": ORDER}
