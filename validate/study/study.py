"""The main job: a checkpoint really encoded, a model predicted on machines, and a report a designer can read.

Everything that can be wrong with the input is refused before any work; files appear when all of them are complete.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import hwmodels
from hwmodels import HardwareSpec, Model
from nmsim import encodings as codecs
from nmsim import packing as packings
from nmsim.errors import NmsimError
from nmsim.files.atomic import refuse_output_folder, updated_folder
from nmsim.pattern import Pattern
from validate.judge.metrics import records
from validate.judge.own_machine import OwnMachine, own_rows
from validate.study import report
from validate.study.answer import Answer, answer
from validate.study.bits import bits_per_element, measure_checkpoint, open_weights
from validate.study.cores import BASE, chosen, core_table, sentences
from validate.study.cores import FIGURES as CORE_FIGURES
from validate.study.example_checkpoint import FILE_NAME, write_example
from validate.study.provenance import collect
from validate.study.whole_model import case_table, predict_layers, sum_layers

Progress = Callable[[str, float], None]
"""Called with what is done next and the share of the study that is done, 0 to 1."""
MeasureOwn = Callable[[Path, Progress], OwnMachine]

CSV_FLOATS = "%.10g"

FILES = {
    "report.html": "this page",
    "study.csv": "a row a layer, step, machine and way to store it: predicted times and bytes of one product",
    "model.csv": "the same added up over the layers: a row a step, machine and way to store it",
    "bits.csv": "a row a tensor, pattern and encoding: measured bits and bytes, and what the formula says",
    "study.json": "the answer, the best of each machine, the bits and the provenance, for programs",
} | {f"{name}.png": "the figure of that name on this page" for name in report.FIGURES}
"""What a study writes."""
CORE_FILES = {
    "cores.csv": "a row a core, step and way to store it: cycles, energy and area of a tensor core that takes the pattern",
} | {f"{name}.png": "the figure of that name on this page" for name in CORE_FIGURES}
"""What it writes besides when that tensor core takes the value type."""
OWN_FILES = {
    "rows.csv": "sparse products timed on the machine that made this page, a row a case",
    "this-machine.toml": "that machine, calibrated by micro-benchmarks alone, for --hardware",
    f"{report.OWN_FIGURE}.png": "the figure of that name on this page",
}
"""What it writes besides when that machine was measured."""

MEASURED_SHARE, ENCODED_SHARE, DRAWN_SHARE = 0.4, 0.7, 0.95
"""Shares of the running time at which measuring, encoding and drawing are done; for the progress bar only."""


@dataclass(frozen=True)
class StudyResult:
    """What a study has found and where it was written.

    `study`, `model`, `bits` and `cores` are the tables of the CSV files; `bits_per_elem` is the sum of `bits` over tensors.
    `cores` is empty where the tensor core of `validate.study.cores` does not take the value type; then it is no file.
    """

    folder: Path
    study: pd.DataFrame
    model: pd.DataFrame
    bits: pd.DataFrame
    cores: pd.DataFrame
    bits_per_elem: pd.DataFrame
    answer: Answer
    summary: dict[str, Any]

    @property
    def report(self) -> Path:
        """The page to read."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class _Plan:
    """Checked input."""

    model: Model
    machines: tuple[HardwareSpec, ...]
    patterns: tuple[Pattern, ...]
    encodings: tuple[str, ...]
    packing: str
    predictions: pd.DataFrame
    cores: pd.DataFrame


def run_study(
    weights: str | os.PathLike[str] | None,
    model: str | Path | Model,
    hardware: Sequence[str | Path | HardwareSpec],
    patterns: Sequence[str | Pattern],
    encodings: Sequence[str],
    packing: str,
    batches: Sequence[int],
    prefill: Sequence[int],
    out_dir: str | os.PathLike[str],
    *,
    dtype: str = "bf16",
    activations: bool = True,
    seed: int = 0,
    measure_own: MeasureOwn | None = None,
    command: str = "validate.run_study",
    progress: Progress | None = None,
) -> StudyResult:
    """Measure the bits of a checkpoint, predict a model on machines, and write tables, figures and a report.

    Parameters
    ----------
    weights : path or None
        A dense safetensors file, index, or folder of one. None makes the synthetic example, among the results.
    model : str, Path or Model
        As for `hwmodels.load_model`; its shapes are predicted, whatever the checkpoint is.
    hardware : sequence
        As for `hwmodels.load_machine`; each machine once.
    patterns, encodings : sequence
        Each once.
    packing : str
        See `nmsim.packing`.
    batches, prefill : sequence of int
        Sequences of a decode step, tokens of a prompt; one of the two may be empty.
    out_dir : path
        A folder, new or not; other files in it stay as they are. Its parent must exist.
    dtype : str
        Value type of the predictions.
    activations : bool
        Predict pruned activations as well as pruned weights.
    seed : int
        Of the example checkpoint.
    measure_own : function, optional
        Measures the machine at hand into the folder it is given, `rows.csv` and `this-machine.toml`, once all other
        input is checked; the report then has a section on it.
    command : str
        What to name as the origin in the report.
    progress : function, optional

    Returns
    -------
    StudyResult

    Raises
    ------
    NmsimError
        Bad input, measured bits that differ from the formula, or an output that cannot be written. Nothing is
        written then.

    Examples
    --------
    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "study"
    >>> found = run_study(None, "llama-3.1-8b", ["h200"], ["8:16"], ["bitmask"], "bitstream", [1], [512], out)
    >>> found.report.name, len(found.bits)
    ('report.html', 14)
    """
    folder = Path(out_dir)
    tell = progress or (lambda text, share: None)
    tell("predicting", 0.0)
    plan = _checked(model, hardware, patterns, encodings, packing, batches, prefill, dtype, activations)
    refuse_output_folder(folder)
    if weights is not None:
        with open_weights(weights, plan.patterns):
            pass
    whole = sum_layers(plan.predictions)
    with updated_folder(folder) as work:
        own, begin = None, 0.0
        if measure_own:
            own, begin = (
                measure_own(work, lambda text, share: tell(text, MEASURED_SHARE * share)),
                MEASURED_SHARE,
            )
        source = Path(weights) if weights is not None else write_example(work / FILE_NAME, seed=seed)
        with open_weights(source, plan.patterns) as checkpoint:
            bits = measure_checkpoint(
                checkpoint,
                plan.patterns,
                plan.encodings,
                plan.packing,
                progress=lambda text, done, total: tell(
                    f"encoding {text}", begin + (ENCODED_SHARE - begin) * done / total
                ),
            )
            synthetic = checkpoint.files[0].metadata.get("synthetic", "")
            inputs = checkpoint.paths
        sums = bits_per_element(bits)
        names = {spec.id: spec.name for spec in plan.machines}
        found = report.Findings(
            model_name=plan.model.name,
            dtype=dtype,
            packing=plan.packing,
            weights_name=source.name,
            synthetic=synthetic,
            machines=plan.machines,
            model=whole,
            bits=sums,
            cores=plan.cores,
            answer=answer(whole, sums, model_name=plan.model.name, dtype=dtype, names=names),
            provenance=collect(command, inputs),
            files=FILES | (CORE_FILES if len(plan.cores) else {}) | (OWN_FILES if own else {}),
            own=own_rows(own.rows, own.hardware) if own else None,
            doubts=own.doubts if own else (),
        )
        tell("drawing", ENCODED_SHARE)
        drawings = report.draw(found)
        tell("writing", DRAWN_SHARE)
        summary = _summary(found)
        tables = {"study": plan.predictions, "model": whole, "bits": bits}
        if len(plan.cores):
            tables["cores"] = plan.cores
        _write(work, tables, summary, drawings, report.render(found, drawings))
    tell("", 1.0)
    return StudyResult(folder, plan.predictions, whole, bits, plan.cores, sums, found.answer, summary)


def _checked(
    model: str | Path | Model,
    hardware: Sequence[str | Path | HardwareSpec],
    patterns: Sequence[str | Pattern],
    encodings: Sequence[str],
    packing: str,
    batches: Sequence[int],
    prefill: Sequence[int],
    dtype: str,
    activations: bool,
) -> _Plan:
    """Check all that does not need the checkpoint. Predicting is cheap, and finds what does not go together."""
    asked = {"hardware": hardware, "patterns": patterns, "encodings": encodings}
    for name, values in asked.items():
        if isinstance(values, str) or not len(values):
            raise NmsimError(f"{name}={values!r}: expected a list of at least one")
    if not len(batches) and not len(prefill):
        raise NmsimError("batches and prefill are both empty: expected at least one batch or prompt length")
    kept = [p if isinstance(p, Pattern) else Pattern.parse(p) for p in patterns]
    machines = [hwmodels.load_machine(name) for name in hardware]
    codes = [codecs.get(name).name for name in encodings]
    policy = str(packings.parse(packing))
    loaded = hwmodels.load_model(model)
    _refuse_twice("patterns", [str(pattern) for pattern in kept])
    _refuse_twice("hardware", [spec.id for spec in machines])
    _refuse_twice("encodings", codes)
    _refuse_twice("batches", list(batches))
    _refuse_twice("prefill", list(prefill))
    operands = ("weights", "activations") if activations else ("weights",)
    cases = case_table(loaded, kept, codes, policy, batches, prefill, operands, dtype)
    predictions = predict_layers(cases, machines)
    cores = core_table(loaded, kept, codes, policy, batches, prefill, dtype)
    return _Plan(loaded, tuple(machines), tuple(kept), tuple(codes), policy, predictions, cores)


def _refuse_twice(name: str, values: Sequence[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise NmsimError(f"{name}: {value} is given {values.count(value)} times, expected each once")


def _summary(found: report.Findings) -> dict[str, Any]:
    """What programs want to know; plain numbers, text and lists, NaN as None."""
    best = found.best[found.best["sparse_operand"].notna()]
    return {
        "answer": list(found.answer.paragraphs),
        "model": found.model_name,
        "dtype": found.dtype,
        "packing": found.packing,
        "weights": {"name": found.weights_name, "synthetic": found.synthetic},
        "speedups_are": "estimates vs the dense model on the same machine; best cases are bound_speedup_vs_dense",
        "best_encoding_of_each_pattern": records(best),
        "bits_per_element": records(found.bits),
        "tensor_core": {
            "chip": BASE,
            "says": sentences(found.cores) if len(found.cores) else [],
            "best_encoding_of_each_pattern": records(chosen(found.cores)) if len(found.cores) else [],
        },
        "files": list(found.files),
        "provenance": found.provenance.as_dict(),
    }


def _write(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    summary: dict[str, Any],
    drawings: dict[str, report.Drawing],
    page: str,
) -> None:
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format=CSV_FLOATS, lineterminator="\n")
    (folder / "study.json").write_text(
        json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for drawing in drawings.values():
        (folder / f"{drawing.name}.png").write_bytes(drawing.png)
    (folder / "report.html").write_text(page, encoding="utf-8")
