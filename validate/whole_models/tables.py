"""The committed rows: their columns, and how they are read."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nmsim.errors import RowError
from validate.judge.row_table import open_row_table
from validate.judge.rows import DATA_FOLDER

WHOLE_FILE, ONLINE_FILE = DATA_FOLDER / "whole_models.parquet", DATA_FOLDER / "online_passes.parquet"
WHOLE_COLUMNS = (
    "machine", "model", "dtype", "phase", "pattern", "tokens", "prompt_tokens", "output_tokens", "sequences", "requests",
    "step_tokens", "eager", "measured_dense_tokens_per_s", "measured_sparse_tokens_per_s", "source",
)  # fmt: skip
"""A run of a serving engine, dense and sparse. `tokens`: of a step, those of prompts in prefill, one of each sequence in
decode. `sequences`: together. `requests`: of the run. `step_tokens`: most that the scheduler takes. `eager`: no CUDA graphs.
Tokens per second count prompts and outputs."""
ONLINE_COLUMNS = (
    "machine",
    "dtype",
    "tokens",
    "K",
    "pattern",
    "measured_copy_s",
    "measured_time_s",
    "source",
)
"""A quantisation per token, with sliding windows of a pattern: bf16 to `dtype`, after a flush, the least of many times.
`measured_copy_s`: a copy that only converts. 2:4 is the quantisation alone."""


def read_whole_models(path: Path = WHOLE_FILE) -> pd.DataFrame:
    """Read runs of whole models: `WHOLE_COLUMNS`."""
    return _read(path, WHOLE_COLUMNS)


def read_online_passes(path: Path = ONLINE_FILE) -> pd.DataFrame:
    """Read online passes: `ONLINE_COLUMNS`."""
    return _read(path, ONLINE_COLUMNS)


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    table: pd.DataFrame = open_row_table(path).to_pandas()
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise RowError.at(f"missing in {path.name}; expected {', '.join(columns)}", column=missing[0])
    return table[list(columns)]
