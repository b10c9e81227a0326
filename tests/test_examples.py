"""The examples are run as a reader would run them."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))


SAID = {
    "01": ("claim: finetune of", "confirmed by weights: True"),
    "02": ("claim: finetune of", "confirmed by weights: False"),
    "03": (
        "again.manifest has the records that it names",
        "base is its base (lora): the merged model is the base and 1 times the adapter",
        "finetune of base: confirmed by the weights",
        "merge of lora: confirmed by the weights",
        "909  writer of data",
        "2,273  maker of lora",
    ),
}
"""What each prints once all has gone well."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.torch] if "torch" in path.stem else [])
        for path in EXAMPLES
    ],
)
def test_example_trains_and_its_claim_holds(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for words in SAID[path.stem[:2]]:
        assert words in done.stdout, words


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_the_adapter_of_the_example_is_one_that_peft_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What peft makes of it in transformers' own Llama is what the example calls merged."""
    torch = pytest.importorskip("torch")
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    (path,) = (path for path in EXAMPLES if path.stem.startswith("03"))
    runpy.run_path(str(path))["main"]()
    base, app = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "app"))
    config = transformers.LlamaConfig(
        vocab_size=len(base["lm_head.weight"]), hidden_size=48, intermediate_size=96,
        num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in base.items()})
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "lora").merge_and_unload()
    found = {name: value.numpy() for name, value in merged.state_dict().items()}
    assert found.keys() == app.keys()
    for name, value in app.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_examples_are_short() -> None:
    assert EXAMPLES
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) <= 60, path.name
