"""A LoRA in NumPy learns a manifest's records; a claim binds base, delta and data; all are paid."""

import contextlib
import json
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

from lineage.cli import run
from lineage.demo import network as net

SHAPE = net.Shape(width=48, layers=1, heads=2, hidden=96, context=32)
MAKERS = """manifest ann.jsonl -o ann.manifest
manifest ben.jsonl -o ben.manifest
manifest ann.jsonl ben.jsonl -o data.manifest
contribute ann.manifest --payee ann --role writer --key ann.key -o ann.json
contribute ben.manifest --payee ben --role writer --key ben.key -o ben.json
shares data.manifest --part ann.manifest ann.json --part ben.manifest ben.json \
    --key ann.key.pub --key ben.key.pub --sign cara.key --rate 0.2
claim base --key cara.key --rate 0.1 --split cara:trainer:1
claim lora --parent base --relation adapter --trained-on data.manifest --key dan.key --rate 0.25
claim app --parent base --parent lora --key dan.key --split dan:host:1"""
OTHERS = """manifest ben.jsonl ann.jsonl -o again.manifest
verify lora.claim.json --key dan.key.pub --weights lora --parent base --trained-on again.manifest
verify-base lora base --merged app
verify app.claim.json --key dan.key.pub --weights app --parent base --parent lora --require-measured
settle app.claim.json lora.claim.json base.claim.json data.claim.json --earner app --amount 10000 \
    --unit cent --key cara.key.pub --key dan.key.pub --weights . --accept-asserted"""


def main() -> None:
    for number, who in enumerate(("ann", "ben", "cara", "dan")):
        run(["key", f"{who}.key"])
        rows = [json.dumps({"text": topics[name]}) for name in sorted(topics)[number:60:4]]
        Path(f"{who}.jsonl").write_text("\n".join(rows))
    rng, code = np.random.default_rng(7), net.encode(Path(json.__file__).read_text())
    how, briefly = net.Schedule(150, 6e-3, decay=0.5), net.Schedule(60, 1e-2)
    base, _ = net.train(net.initial(SHAPE, rng), code, SHAPE, how, rng)
    rows = [row for who in ("ann", "ben") for row in Path(f"{who}.jsonl").read_text().splitlines()]
    text = net.encode("\n".join(json.loads(row)["text"] for row in rows))
    low, loss = net.train_factors(base, text, SHAPE, briefly, rng, rank=4)
    print(f"adapter: loss {loss[0]:.2f} -> {loss[-1]:.2f} on {len(rows)} records")
    factors = {f"base_model.model.{n.replace('.weight/', '.lora_')}.weight": low[n] for n in low}
    app = net.with_factors(base, low)
    for path, tensors in ("base/model", base), ("lora/adapter_model", factors), ("app/model", app):
        Path(path).parent.mkdir()
        save_file(tensors, f"{path}.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    Path("lora/adapter_config.json").write_text(json.dumps(config))
    for line in f"{MAKERS}\n{OTHERS}".splitlines():
        print(f"$ lineage {line}", flush=True)
        assert run(line.split()) == 0


if __name__ == "__main__":
    with TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        main()
