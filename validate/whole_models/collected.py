"""Makes `data/whole_models.parquet` and `data/online_passes.parquet` from tables as collected.

`python -m validate.whole_models.collected TABLE...` takes tables of either kind as CSV or Parquet. Machines, models and
patterns get our names, times are seconds, and what a run was asked to do becomes columns. The source is
SlideSparse's repository, https://github.com/bcacdwk/vllmbench, under Apache-2.0.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nmsim.errors import NmsimError, RowError
from nmsim.support.sources import read_text
from validate.judge.row_table import open_row_table
from validate.whole_models.tables import ONLINE_COLUMNS, ONLINE_FILE, WHOLE_COLUMNS, WHOLE_FILE

MACHINES = {
    "A100": "a100-pcie",
    "B200": "b200",
    "GB10": "gb10",
    "H100": "h100-pcie",
    "RTX4090": "rtx4090",
    "RTX5080": "rtx5080",
}
"""Names of the source. Its result folders name `H100_cc90` and its readme the boards: both with 80 GB and PCIe."""
MODELS = {
    "BitNet-2B": "bitnet-b1.58-2b",
    "Llama3.2-1B": "llama-3.2-1b",
    "Llama3.2-3B": "llama-3.2-3b",
    "Qwen2.5-7B": "qwen2.5-7b",
    "Qwen2.5-14B": "qwen2.5-14b",
}
EAGER = ("gb10",)
"""Machines that ran without CUDA graphs, as the readme says in section 6.5."""
PROMPT_TOKENS, DECODE_PROMPT_TOKENS = 1024, 16
"""Longest prompt of a prefill run, and the prompt of a decode run (`throughput_benchmark.py`)."""
OUTPUT_TOKENS, PREFILL_ROUNDS = 256, 128
"""Tokens that each sequence of a decode run gets, and batches of a prefill run, whose sequences get one token."""
METADATA = {"source": "https://github.com/bcacdwk/vllmbench", "licence": "Apache-2.0"}
PASS_K = 2560
"""In features of the timed passes (`run_benchmark_paper.py`, K_DEFAULT)."""


def whole_models(table: pd.DataFrame) -> pd.DataFrame:
    """Turn the table of tokens per second into `WHOLE_COLUMNS`."""
    found = pd.DataFrame({"machine": _named(table, "gpu", MACHINES), "model": _named(table, "model", MODELS)})
    found["dtype"] = table["dtype"].str.lower()
    found["phase"] = table["phase"]
    found["pattern"] = _patterns(table, "pattern_as_named")
    decode, tokens = table["phase"] == "decode", table["M_tokens_or_batch"].astype(int)
    found["tokens"] = tokens
    found["prompt_tokens"] = tokens.clip(upper=PROMPT_TOKENS).where(~decode, DECODE_PROMPT_TOKENS)
    found["output_tokens"] = decode.map({True: OUTPUT_TOKENS, False: 1})
    found["sequences"] = tokens.where(decode, (tokens / found["prompt_tokens"]).clip(lower=1).astype(int))
    found["requests"] = found["sequences"] * decode.map({True: 1, False: PREFILL_ROUNDS})
    # The scheduler takes no fewer tokens per step than a whole request has.
    whole = found["prompt_tokens"] + found["output_tokens"]
    found["step_tokens"] = tokens.where(tokens >= whole, whole)
    found["eager"] = found["machine"].isin(EAGER)
    found["measured_dense_tokens_per_s"] = table["dense_tok_per_s"].astype(float)
    found["measured_sparse_tokens_per_s"] = table["sparse_tok_per_s"].astype(float)
    found["source"] = table["source_url"]
    return found.sort_values(list(WHOLE_COLUMNS[:6])).reset_index(drop=True)[list(WHOLE_COLUMNS)]


def online_passes(table: pd.DataFrame) -> pd.DataFrame:
    """Turn the table of online passes into `ONLINE_COLUMNS`.

    The column that the table calls quantisation alone is a copy that converts: the source's `baseline`. Its column 2:4 is
    the quantisation alone, since windows of 2:4 repeat nothing.
    """
    found = pd.DataFrame({"machine": _named(table, "gpu", MACHINES), "dtype": table["out_dtype"].str.lower()})
    found["tokens"] = table["M_tokens"].astype(int)
    found["K"] = PASS_K
    found["pattern"] = _patterns(table, "window_pattern")
    found["measured_copy_s"] = (table["quant_only_us"] * 1e-6).round(12)
    found["measured_time_s"] = (table["quant_plus_slide_us"] * 1e-6).round(12)
    found["source"] = table["source_url"]
    return found.sort_values(list(ONLINE_COLUMNS[:5])).reset_index(drop=True)[list(ONLINE_COLUMNS)]


KINDS = {"dense_tok_per_s": (whole_models, WHOLE_FILE), "quant_plus_slide_us": (online_passes, ONLINE_FILE)}
"""Column that only one kind of table has -> what makes of it rows of ours, and their file."""


def _named(table: pd.DataFrame, column: str, names: dict[str, str]) -> pd.Series:
    unknown = sorted(set(table[column]) - set(names))
    if unknown:
        raise RowError.at(f"{unknown[0]}: expected one of {', '.join(names)}", column=column)
    return table[column].map(names)


def _patterns(table: pd.DataFrame, column: str) -> pd.Series:
    """`2:6` of the source prunes 2 of 6, and keeps 4."""
    parts = table[column].str.extract(r"^2:(\d+)$")[0]
    if parts.isna().any():
        raise RowError.at(f"{table[column][parts.isna()].iloc[0]}: expected 2:L", column=column)
    sizes = parts.astype(int)
    return (sizes - 2).astype(str) + ":" + sizes.astype(str)


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write rows with their licence in the metadata of the file."""
    from pyarrow import Table, parquet

    table = Table.from_pandas(rows, preserve_index=False)
    parquet.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), **METADATA}), path, compression="zstd"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read tables as collected, and write the project's."""
    parser = argparse.ArgumentParser(prog="python -m validate.whole_models.collected", description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, help="CSV or Parquet")
    options = parser.parse_args(arguments)
    try:
        for path in options.tables:
            if path.suffix == ".parquet":
                table = open_row_table(path).to_pandas()
            else:
                stream = io.StringIO(read_text(path))
                table = pd.read_csv(stream)
            kinds = [kind for name, kind in KINDS.items() if name in table.columns]
            if not kinds:
                raise NmsimError(f"{path}: expected a column {' or '.join(KINDS)}")
            make, target = kinds[0]
            rows = make(table)
            write(rows, target)
            print(f"{target}: {len(rows)} rows")
    except NmsimError as error:
        sys.exit(f"validate.whole_models.collected: {error}")


if __name__ == "__main__":
    main()
