"""Steps of whole models that we measured, beside the prediction from the calibration of the same machine alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from hwmodels.machine.spec import HardwareSpec, load_machine
from hwmodels.models import Model, load_model
from hwmodels.steps.step import step
from nmsim.case import VALUE_BITS
from nmsim.errors import RowError
from nmsim.format import SparseFormat, sparse_format
from nmsim.rows import read
from nmsim.rows.model_step import ModelStepRow
from nmsim.units import bits_to_bytes, percent
from validate.judge.rows import MEASURED_FOLDER
from validate.whole_models.errors import summarise

STEP_FOLDER = MEASURED_FOLDER / "steps"
"""CSV files of measured steps, each named as its machine; the calibration is the TOML file of that name in the folder above."""
MODELS = {"smollm2": "smollm2-135m"}
"""Model of a row -> its name in `hwmodels`, if it is another."""
FUSED = ("qkv", "gate_up")
STEP_ERRORS = {
    "dense": "dense_time_s",
    "sparse": "sparse_time_s",
    "speedup": "speedup_vs_dense",
    "dense_layers": "dense_layers_s",
    "sparse_layers": "sparse_layers_s",
}
"""Name of an error -> columns `predicted_` and `measured_` of it. Layers are the pruned ones, without the rest of the step."""


def read_steps(paths: Iterable[Path] | None = None) -> list[ModelStepRow]:
    """Read measured steps: those of some files, or all that ship with nmsim.

    Raises
    ------
    RowError
        As `nmsim.rows.read`.
    """
    files = sorted(STEP_FOLDER.glob("*.csv")) if paths is None else paths
    return [row for path in files for row in read(path, ModelStepRow)]


def predict_steps(rows: Sequence[ModelStepRow], *, hardware: Path | None = None) -> pd.DataFrame:
    """Predict measured steps.

    Parameters
    ----------
    rows : sequence of ModelStepRow
    hardware : Path, optional
        Hardware file of the machine; by default the calibration that ships under the name of each row's machine.

    Returns
    -------
    DataFrame
        The columns of the rows, those of times and bytes with `measured_` before their names, and `predicted_` ones.

    Raises
    ------
    RowError
        A machine without a calibration.
    SpecError
        A model that is not known.

    Source
    ------
    `docs/explanation/measured-models.md`.
    """
    specs: dict[str, HardwareSpec] = {}
    lines = []
    for row in rows:
        if row.machine not in specs:
            specs[row.machine] = load_machine(hardware or _calibration(row.machine))
        lines.append(_judged(row, specs[row.machine]))
    return pd.DataFrame(lines)


def _calibration(machine: str) -> Path:
    path = MEASURED_FOLDER / f"{machine}.toml"
    if not path.exists():
        raise RowError(f"machine={machine}: expected {path.name} beside the measured rows", column="machine")
    return path


def _judged(row: ModelStepRow, spec: HardwareSpec) -> dict[str, Any]:
    """A line of the table. Dense layers are single products, whatever the sparse ones are."""
    model, stored = load_model(MODELS.get(row.model, row.model)), sparse_format(row.format)
    # A step counts the new tokens beside the context.
    asked: dict[str, Any] = {
        "format": stored, "phase": row.phase, "batch": row.batch, "context_tokens": row.context_tokens,
        "new_tokens": row.new_tokens, "dtype": row.dtype, "kv_dtype": row.dtype, "threads": row.threads,
    }  # fmt: skip
    dense = step(model, spec, **asked)
    sparse = step(model, spec, **asked, fuse=FUSED if row.sparse_call.endswith("stacked") else ())
    found = {
        f"measured_{name}" if name.startswith(("sparse_time", "dense_time", "speedup")) else name: value
        for name, value in asdict(row).items()
    }
    return found | {
        "predicted_dense_time_s": dense.dense_time_s,
        "predicted_sparse_time_s": sparse.time_s,
        "predicted_speedup_vs_dense": dense.dense_time_s / sparse.time_s,
        # What multiplies the pruned layers alone: measured by leaving them out.
        "measured_dense_layers_s": row.dense_time_s - row.rest_time_s,
        "measured_sparse_layers_s": row.sparse_time_s - row.rest_time_s,
        "predicted_dense_layers_s": math.fsum(each.dense_time_s for each in dense.rows if each.pruned),
        "predicted_sparse_layers_s": math.fsum(each.time_s for each in sparse.rows if each.pruned),
        "predicted_dense_bytes": model_bytes(model, row.dtype, None),
        "predicted_sparse_bytes": model_bytes(model, row.dtype, stored),
    }


def model_bytes(model: Model, dtype: str, format: SparseFormat | None) -> int:
    """Count the bytes of the linear layers of a model, its head among them: dense, or packed in a format.

    Norms and biases are not counted. The embedding is that of a head that is tied to it.

    Examples
    --------
    >>> model_bytes(load_model("smollm2-135m"), "fp32", None)
    537919488
    """
    total = 0
    for layer in model.layers:
        elems, value_bits = layer.N * layer.K, VALUE_BITS[dtype]
        if layer.pruned and format is not None:
            pattern = format.pattern
            groups = layer.N * pattern.groups(layer.K)
            bits = groups * pattern.n * value_bits + 8 * format.stream_bytes(groups)
        else:
            bits = elems * value_bits
        total += layer.places * bits_to_bytes(bits)
    return total


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Errors of predicted steps by phase and type: medians of |predicted / measured - 1| and of the signed errors.

    Parameters
    ----------
    table : DataFrame
        From `predict_steps`.
    """
    return [
        {"phase": phase, "dtype": dtype} | summarise(rows, STEP_ERRORS)
        for (phase, dtype), rows in table.groupby(["phase", "dtype"], sort=True)
    ]


def main() -> None:
    """Print the committed steps beside their predictions, and the errors."""
    table = predict_steps(read_steps())
    for row in table.to_dict("records"):
        times = [
            f"{name} {1e3 * row[f'measured_{name}_time_s']:.2f}, predicted {1e3 * row[f'predicted_{name}_time_s']:.2f} ms"
            for name in ("dense", "sparse")
        ]
        print(
            f"{row['dtype']} {row['format']} {row['phase']} {row['context_tokens']}, {row['threads']} threads, "
            f"{row['sparse_call']}: {'; '.join(times)}; speedup {row['measured_speedup_vs_dense']:.3f}, predicted "
            f"{row['predicted_speedup_vs_dense']:.3f}; beside the pruned layers {1e3 * row['rest_time_s']:.2f} ms"
        )
    for group in summary(table):
        errors = ", ".join(
            f"{name} {percent(group[f'{name}_mdape'], 1)} ({100 * group[f'{name}_bias']:+.1f})"
            for name in STEP_ERRORS
        )
        print(f"{group['phase']} {group['dtype']}: {group['n_rows']} rows; error and bias: {errors}")


if __name__ == "__main__":
    main()
