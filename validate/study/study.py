"""A study: a checkpoint is encoded, a model is predicted on machines, and a report says what to build.

All input is checked before any work starts. Files appear when all of them are complete.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import hwmodels
from hwmodels import HardwareSpec, Model
from hwmodels.estimate.table import MAX_DIMENSION
from nmsim.case import DEFAULT_DTYPE, SparseOperand, value_type
from nmsim.errors import NmsimError, RowError, brief
from nmsim.files.atomic import updated_folder
from nmsim.files.output import Output, check
from nmsim.format import FormatLike, SparseFormat, sparse_format
from nmsim.support.cells import write_csv
from nmsim.support.sources import read_text
from validate.accuracy.beside_cost import asked_qualities
from validate.judge.metrics import records
from validate.judge.own_machine import OwnMachine, own_rows
from validate.study import report
from validate.study.answer import Answer, answer
from validate.study.bits import bits_per_element, left_dense, measure_checkpoint, open_weights
from validate.study.cores import BASE, chosen, core_table, sentences
from validate.study.cores import FIGURES as CORE_FIGURES
from validate.study.defaults import BATCHES, FORMATS, HARDWARE, MODEL, PREFILL
from validate.study.example_checkpoint import FILE_NAME, write_example
from validate.study.losses import FIGURES as LOSS_FIGURES
from validate.study.losses import best_rows, loss_table
from validate.study.losses import figures as loss_figures
from validate.study.provenance import collect
from validate.study.whole_model import Context, attention_rows, case_table, predict_layers, sum_layers

Progress = Callable[[str, float], None]
"""Called with what is done next and the share of the study that is done, 0 to 1."""
MeasureOwn = Callable[[Path, Progress], OwnMachine]

CSV_FLOATS = "%.10g"

FILES = {
    "report.html": "this page",
    "study.csv": "a row per layer, step, machine and format: predicted times and bytes of one product",
    "model.csv": "the same added up over the layers: a row per step, machine and format",
    "bits.csv": "a row per tensor and format: measured bits and bytes, and what the formula says",
    "study.json": "the answer, the best of each machine, the bits and the provenance, for programs",
} | {f"{name}.png": "the figure of that name on this page" for name in report.FIGURES}
"""What a study writes."""
CORE_FILES = {
    "cores.csv": "a row per core, step and format: cycles, energy and area of a tensor core that takes the pattern"
} | {f"{name}.png": "the figure of that name on this page" for name in CORE_FIGURES}
"""What it also writes if that tensor core takes the value type."""
LOSS_FILES = {
    "losses.csv": "a row per machine and measured way to prune: its loss beside bits, speedups, energy and area"
} | {f"{name}.png": "the figure of that name on this page" for name in LOSS_FIGURES}
"""What it also writes if losses were measured for a pattern of it."""
OWN_FILES = {
    "rows.csv": "sparse products timed on the machine that made this page, a row per case",
    "this-machine.toml": "that machine, calibrated by micro-benchmarks alone, for --hardware",
    f"{report.OWN_FIGURE}.png": "the figure of that name on this page",
}
"""What it also writes if that machine was measured."""

MEASURED_SHARE, ENCODED_SHARE, DRAWN_SHARE = 0.4, 0.7, 0.95
"""Shares of the running time at which measuring, encoding and drawing are done, for the progress bar only."""


EXAMPLE_FILES = {FILE_NAME: "the synthetic example checkpoint"}
"""What it also writes if it is given no checkpoint."""
SUMMARY = "study.json"
"""The file that says that a folder is one of a study, and which files are the study's."""


@dataclass(frozen=True)
class StudyResult:
    """The result of a study: its tables, its answer, and the folder it was written to.

    `study`, `model`, `bits` and `cores` are the tables of the CSV files. `bits_per_elem` is `bits` added up over tensors.
    `cores` is empty, and no file, if the tensor core of `validate.study.cores` does not take the value type. `losses` is None
    if no loss was asked for.
    """

    folder: Path
    study: pd.DataFrame
    model: pd.DataFrame
    bits: pd.DataFrame
    cores: pd.DataFrame
    bits_per_elem: pd.DataFrame
    answer: Answer
    summary: dict[str, Any]
    losses: pd.DataFrame | None = None

    @property
    def report(self) -> Path:
        """The page to read."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class _Plan:
    """Checked input, and what is predicted from it."""

    model: Model
    machines: tuple[HardwareSpec, ...]
    formats: tuple[SparseFormat, ...]
    predictions: pd.DataFrame
    cores: pd.DataFrame
    dtype: str


def run_study(
    weights: str | os.PathLike[str] | None = None,
    model: str | Path | Model = MODEL,
    *,
    hardware: Sequence[str | Path | HardwareSpec] = HARDWARE,
    formats: Sequence[FormatLike] = FORMATS,
    batches: Sequence[int] = BATCHES,
    prefill: Sequence[int] = PREFILL,
    out_dir: str | os.PathLike[str] = "study",
    dtype: str | None = None,
    context_tokens: int = 0,
    kv_dtype: str | None = None,
    activations: bool = True,
    seed: int = 0,
    measure_own: MeasureOwn | None = None,
    losses: str | None = None,
    losses_of: Sequence[str] = (),
    command: str = "validate.run_study",
    progress: Progress | None = None,
    force: bool = False,
) -> StudyResult:
    """Measure the bits of a checkpoint, predict a model on machines, and write tables, figures and a report.

    Parameters
    ----------
    weights : path, optional
        A dense safetensors file, index, or folder with one. Without it, the synthetic example is made in `out_dir`.
    model : str, Path or Model
        As for `hwmodels.load_model`. Its shapes are predicted, whatever the checkpoint is.
    hardware : sequence of str, Path or HardwareSpec
        Names or files of machines; each once.
    formats : sequence of SparseFormat, Pattern or str
        How weights may be stored, such as `"8:16/index"`; each pair of pattern and encoding once.
    batches, prefill : sequence of int
        Sequences of a decode step, tokens of a prompt. One of the two may be empty.
    out_dir : path
        A folder, new or not; other files in it stay. Its parent must exist. Files of an earlier study in it are replaced.
    dtype : str, optional
        Value type of the predictions. By default what the model says of its layers, else bf16.
    context_tokens : int
        Tokens of each sequence in a decode step, for attention and its cache; a prompt then attends to itself. 0: a model
        is its linear layers alone.
    kv_dtype : str, optional
        Value type of the cache; by default that of attention, which has 16 bits or more.
    activations : bool
        Predict pruned activations as well as pruned weights.
    seed : int
        Of the example checkpoint.
    measure_own : function, optional
        Called with a folder once all other input is checked. It measures this machine into `rows.csv` and
        `this-machine.toml` there, and the report gets a section on it.
    losses : str, optional
        Measured losses that stand beside the costs: a file, or `smollm2` for the rows that ship with nmsim. These are taken
        if nothing is said; an empty text leaves the section out.
    losses_of : sequence of str
        Which rows of it count, as `KEY=VALUE`.
    command : str
        What the report names as its origin.
    progress : function, optional
        Called with what is done next and the share of the study that is done, 0 to 1.
    force : bool
        Replace files of these names that no earlier study wrote.

    Returns
    -------
    StudyResult

    Raises
    ------
    NmsimError
        Bad input, measured bits that differ from the formula, or an output that cannot be written. Nothing is
        written then.
    BusyError
        Another process writes the folder.

    Examples
    --------
    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "study"
    >>> result = run_study(hardware=["h200"], formats=["8:16"], batches=[1], prefill=[512], out_dir=out)
    >>> result.report.name, len(result.bits)
    ('report.html', 14)
    """
    folder = Path(out_dir)
    tell = progress or (lambda text, share: None)
    tell("predicting", 0.0)
    # Predictions come first: they are cheap and find what does not go together before any file is written.
    operands: Sequence[SparseOperand] = ("weights", "activations") if activations else ("weights",)
    context = Context(context_tokens, kv_dtype)
    plan = _checked(model, hardware, formats, batches, prefill, operands, dtype, context)
    dtype = plan.dtype
    output = study_output(folder, own_machine=measure_own is not None, example=weights is None)
    sources = [
        Path(name) for name in (weights, model, losses, *hardware) if isinstance(name, str | os.PathLike)
    ]
    qualities = asked_qualities(losses, losses_of, patterns=[form.pattern for form in plan.formats])
    check([output], force=force, sources=sources)
    if weights is not None:
        with open_weights(weights, plan.formats):
            pass
    whole = sum_layers(plan.predictions)
    with updated_folder(
        folder, names=output.names, ours=output.ours, last=SUMMARY, force=force, sources=sources
    ) as work:
        own, begin = None, 0.0
        if measure_own:
            own = measure_own(work, lambda text, share: tell(text, MEASURED_SHARE * share))
            begin = MEASURED_SHARE
        source = Path(weights) if weights is not None else write_example(work / FILE_NAME, seed=seed)
        encoding_share = ENCODED_SHARE - begin
        with open_weights(source, plan.formats) as checkpoint:
            bits = measure_checkpoint(
                checkpoint,
                plan.formats,
                progress=lambda text, done, total: tell(
                    f"encoding {text}", begin + encoding_share * done / total
                ),
            )
            synthetic = checkpoint.files[0].metadata.get("synthetic", "")
            inputs = checkpoint.paths
            left = left_dense(checkpoint, plan.formats[0].pattern)
        sums = bits_per_element(bits)
        names = {spec.id: spec.name for spec in plan.machines}
        beside = loss_table(whole, sums, plan.cores, qualities) if qualities is not None else None
        has_losses = beside is not None and qualities is not None and bool(loss_figures(beside, qualities))
        findings = report.Findings(
            model_name=plan.model.name,
            dtype=dtype,
            packing=", ".join(dict.fromkeys(str(fmt.packing) for fmt in plan.formats)),
            weights_name=source.name,
            left_dense=tuple(left),
            synthetic=synthetic,
            machines=plan.machines,
            model=whole,
            bits=sums,
            cores=plan.cores,
            answer=answer(
                whole,
                sums,
                model_name=plan.model.name,
                dtype=dtype,
                names=names,
                context_tokens=context_tokens,
            ),
            provenance=collect(command, inputs),
            files=FILES
            | (CORE_FILES if len(plan.cores) else {})
            | (LOSS_FILES if has_losses else {})
            | (OWN_FILES if own else {})
            | (EXAMPLE_FILES if weights is None else {}),
            own=own_rows(own.rows, own.hardware) if own else None,
            doubts=own.doubts if own else (),
            context_tokens=context_tokens,
            losses=beside,
            qualities=qualities,
        )
        tell("drawing", ENCODED_SHARE)
        drawings = report.draw(findings)
        tell("writing", DRAWN_SHARE)
        summary = _summary(findings)
        tables = {"study": plan.predictions, "model": whole, "bits": bits}
        if len(plan.cores):
            tables["cores"] = plan.cores
        if beside is not None and has_losses:
            tables["losses"] = beside
        _write(work, tables, summary, drawings, report.render(findings, drawings))
    tell("", 1.0)
    return StudyResult(
        folder, plan.predictions, whole, bits, plan.cores, sums, findings.answer, summary, beside
    )


def study_output(folder: Path, *, own_machine: bool, example: bool) -> Output:
    """Say what a study may write into a folder, and which files there an earlier study wrote.

    Parameters
    ----------
    folder : Path
    own_machine : bool
        It measures the machine that it runs on.
    example : bool
        It makes the example checkpoint.

    Examples
    --------
    >>> sorted(study_output(Path("nowhere"), own_machine=False, example=True).ours)
    []
    """
    names = (
        FILES
        | CORE_FILES
        | LOSS_FILES
        | (OWN_FILES if own_machine else {})
        | (EXAMPLE_FILES if example else {})
    )
    try:
        summary = json.loads(read_text(folder / SUMMARY))
        ours = set(summary["files"]) if "nmsim" in summary["provenance"] else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    return Output(folder, "folder", names=tuple(names), ours=frozenset(ours))


def _checked(
    model: str | Path | Model,
    hardware: Sequence[str | Path | HardwareSpec],
    formats: Sequence[FormatLike],
    batches: Sequence[int],
    prefill: Sequence[int],
    operands: Sequence[SparseOperand],
    dtype: str | None,
    context: Context,
) -> _Plan:
    """Check all that does not need the checkpoint. Predicting is cheap, and finds what does not go together."""
    asked = {"hardware": hardware, "formats": formats}
    for name, values in asked.items():
        if isinstance(values, str) or not len(values):
            raise NmsimError(f"{name}={brief(values)}: expected a list of at least one")
    if not len(batches) and not len(prefill):
        raise NmsimError("batches and prefill are both empty: expected at least one batch or prompt length")
    stored = tuple(sparse_format(value) for value in formats)
    machines = tuple(hwmodels.load_machine(name) for name in hardware)
    loaded = hwmodels.load_model(model)
    # Figures and tables have one row per pattern and encoding, so that one packing of each is shown.
    _refuse_twice("formats", [f"{fmt.pattern}/{fmt.encoding.name}" for fmt in stored])
    _refuse_one_id(hardware, [spec.id for spec in machines])
    _refuse_twice("batches", list(batches))
    _refuse_twice("prefill", list(prefill))
    if (
        isinstance(context.tokens, bool)
        or not isinstance(context.tokens, int)
        or not 0 <= context.tokens <= MAX_DIMENSION
    ):
        raise NmsimError(
            f"context_tokens={brief(context.tokens)}: expected a whole number from 0 to {MAX_DIMENSION}"
        )
    kind = value_type(dtype or loaded.dtype or DEFAULT_DTYPE)
    steps: dict[str, Any] = {"batches": batches, "prefill": prefill, "dtype": kind}
    try:
        types: dict[str, Any] = steps | {"dtype": None if dtype is None else kind}
        predictions = predict_layers(case_table(loaded, stored, operands=operands, **types), machines)
    except RowError as error:
        # The table is made here: the caller does not know its rows.
        raise RowError(error.problem) from error
    if context.tokens:
        dense = attention_rows(loaded, machines, context=context, **steps)
        predictions = pd.concat([predictions, dense], ignore_index=True) if len(dense) else predictions
    return _Plan(loaded, machines, stored, predictions, core_table(loaded, stored, **steps), kind)


def _refuse_one_id(hardware: Sequence[Any], ids: Sequence[str]) -> None:
    """Refuse machines that share an id, such as a shipped one and a copy of its file."""
    for one in dict.fromkeys(ids):
        given = [
            str(getattr(name, "id", name)) for name, other in zip(hardware, ids, strict=True) if other == one
        ]
        if len(given) > 1:
            raise NmsimError(
                f"hardware: {one} is given {len(given)} times, as {' and '.join(given)}: expected machines with an id "
                "of their own; the key id of a file says it"
            )


def _refuse_twice(name: str, values: Sequence[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise NmsimError(f"{name}: {value} is given {values.count(value)} times, expected each once")


def _summary(findings: report.Findings) -> dict[str, Any]:
    """The summary for programs; plain numbers, text and lists, NaN as None."""
    best = findings.best[findings.best["sparse_operand"].notna()]
    return {
        "answer": list(findings.answer.paragraphs),
        "model": findings.model_name,
        "dtype": findings.dtype,
        "packing": findings.packing,
        **({"context_tokens": findings.context_tokens} if findings.context_tokens else {}),
        "weights": {"name": findings.weights_name, "synthetic": findings.synthetic},
        "speedups_are": "estimates vs the dense model on its machine, below speedup_at_most; bound_speedup_vs_dense: of bounds",
        "best_encoding_of_each_pattern": records(best),
        "bits_per_element": records(findings.bits),
        "left_dense": list(findings.left_dense),
        "tensor_core": {
            "chip": BASE,
            "says": sentences(findings.cores) if len(findings.cores) else [],
            "best_encoding_of_each_pattern": records(chosen(findings.cores)) if len(findings.cores) else [],
        },
        **_losses(findings),
        "files": list(findings.files),
        "provenance": findings.provenance.as_dict(),
    }


def _losses(findings: report.Findings) -> dict[str, Any]:
    """Measured losses beside costs, and what they are of; nothing without losses."""
    if findings.losses is None or findings.qualities is None:
        return {}
    of = findings.qualities
    rows = records(best_rows(findings.losses)) if len(findings.losses) else []
    said = {"model": of.model, "text": of.text, "says": [of.description, of.caveat(findings.model_name)]}
    return {"losses": said | {"best_way_of_each_pattern": rows}}


def _write(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    summary: dict[str, Any],
    drawings: dict[str, report.Drawing],
    page: str,
) -> None:
    for name, table in tables.items():
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as stream:
            write_csv(table, stream, float_format=CSV_FLOATS, lineterminator="\n")
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    # Time and command share a line: all other lines of two equal studies are equal.
    text = re.sub(r'("timestamp_utc": "[^"]*",)\s+("command": )', r"\1 \2", text, count=1)
    (folder / SUMMARY).write_text(text, encoding="utf-8")
    for drawing in drawings.values():
        (folder / f"{drawing.name}.png").write_bytes(drawing.png)
    (folder / "report.html").write_text(page, encoding="utf-8")
