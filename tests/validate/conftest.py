"""A tiny checkpoint, a tiny model, and one finished study of them that most tests read."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from loss_rows import rows

from nmsim.rows.files import write
from nmsim.rows.loss import LossRow
from validate import run_study, write_example
from validate.study.example_checkpoint import TINY

CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
}
ARGUMENTS = {
    "hardware": ["h200", "h200-8x16"],
    "formats": [
        f"{pattern}/{encoding}"
        for pattern in ("16:32", "2:4", "8:16")
        for encoding in ("bitmask", "index", "gap:2", "combinatorial")
    ],
    "batches": [1, 16],
    "prefill": [2048],
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> SimpleNamespace:
    """Paths of a tiny checkpoint and a tiny config."""
    folder = tmp_path_factory.mktemp("tiny")
    config = folder / "tiny-llama.json"
    config.write_text(json.dumps(CONFIG))
    return SimpleNamespace(weights=write_example(folder / "tiny.safetensors", shape=TINY), config=config)


@pytest.fixture(scope="session")
def study(tiny, tmp_path_factory) -> SimpleNamespace:
    """A finished study: its result, its folder, and its tables as read back from the files."""
    folder = tmp_path_factory.mktemp("studies") / "out"
    told: list[tuple[str, float]] = []
    measured = tmp_path_factory.mktemp("losses") / "losses.csv"
    write(measured, rows(), record=LossRow)
    found = run_study(
        tiny.weights,
        tiny.config,
        **ARGUMENTS,
        losses=str(measured),
        out_dir=folder,
        progress=lambda *args: told.append(args),
    )
    tables = {
        name: pd.read_csv(folder / f"{name}.csv") for name in ("study", "model", "bits", "cores", "losses")
    }
    page = (folder / "report.html").read_text(encoding="utf-8")
    return SimpleNamespace(
        found=found, folder=Path(folder), page=page, told=told, measured=measured, **tables
    )
