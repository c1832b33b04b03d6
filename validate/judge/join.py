"""Measured rows beside what the model predicts for them: one table, with the relative errors, and reasons if known.

A reason says why a speedup is missed, or why a time is below its bound. It rests on the cells of the row, or on its source.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import pandas as pd

import hwmodels
from hwmodels import HardwareSpec
from hwmodels.counted.product import counted_product
from hwmodels.estimate import constants
from hwmodels.estimate.estimate import flush_s
from hwmodels.estimate.intervals import regime_of
from hwmodels.estimate.table import DEFAULTS
from hwmodels.machine.chip import chip
from hwmodels.machine.libraries import weak_baseline
from nmsim.case import VALUE_BITS
from nmsim.errors import NmsimError, RowError, brief
from nmsim.pattern import Pattern
from nmsim.rows import Measurement
from validate.judge.bandwidth import bandwidth_columns
from validate.judge.names import KernelFamily, Machines
from validate.judge.problems import BadRow, error_of
from validate.judge.rows import JudgedRow

INPUT_COLUMNS = (
    "machine", "M", "N", "K", "phase", "dtype", "baseline_dtype", "sparse_operand", "pattern", "kernel_family",
    "density", "l2_state", "encoding", "packing", "kernel", "threads", "sparse_products", "dense_products_beside",
)  # fmt: skip
"""Columns of the table that a model gets; `machine` is the id of a spec."""

OWN_FAMILIES = {"torch.cu": "library", "gpu.": "software"}
"""How the kernel of one of our own rows begins -> its family."""

COMPILED = ("gpu.gemv", "gpu.mma")
"""Kernels of ours whose compiled code was counted: the counts predict them, if there are some for the machine."""
COMPILED_FAMILY = "compiled"

TIMES = ("predicted_dense_time_s", "predicted_sparse_time_s", "bound_dense_time_s", "bound_sparse_time_s")
SPEEDUPS = ("predicted_speedup_vs_dense", "predicted_speedup_low", "predicted_speedup_high")
BYTES = ("dense_bytes", "sparse_bytes")
ANSWER_COLUMNS = (*TIMES, *SPEEDUPS, *BYTES, "extrapolates", "family")
"""What a model answers, for one product a row."""


KINDS = ("kernel_family", "dtype", "baseline_dtype", "pattern")
"""Columns whose values decide whether a model takes a row at all, whatever its shape."""
PLAIN_SHAPES = ((1, 64), (64, 256), (4096, 1024))
"""Tokens of plain products, and groups of elements of their other sides."""
Progress = Callable[[str, float], None]


class Predictor(Protocol):
    """A model: inputs of one machine in, `ANSWER_COLUMNS` out, row by row."""

    def __call__(
        self, inputs: pd.DataFrame, hardware: HardwareSpec, *, held_out: bool = False
    ) -> pd.DataFrame:
        """Predict; `held_out` wants constants that were fitted without the machine."""


def join(
    rows: Sequence[JudgedRow],
    machines: Machines,
    predictor: Predictor,
    *,
    held_out: bool = False,
    bad: list[BadRow] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict every row and put both sides in one table.

    Parameters
    ----------
    rows : sequence of JudgedRow
    machines : Machines
    predictor : Predictor
        `hwmodels.predict_rows`.
    held_out : bool
        Predict each machine with constants that were fitted without it.
    bad : list of BadRow, optional
        Receives the rows that cannot be predicted, and the others are predicted. If absent, such rows are an error.
    progress : callable, optional
        Receives what is under way, and the share of rows predicted.

    Returns
    -------
    DataFrame
        One row per measurement, in order: its source, what ran, and `measured_*`, `predicted_*` and `bound_*` (times in
        seconds of all products of the row). Then the relative errors `dense_time_error`, `sparse_time_error` and
        `speedup_error`, predicted / measured - 1. `weak_baseline` says that the dense library is weak for the value type, as
        `hwmodels.machine.libraries.weak_baseline`. At last `dense_bytes` and `sparse_bytes`, the least traffic of all products,
        and the columns of `validate.judge.bandwidth.bandwidth_columns`. Figures that were not measured are NaN.

    Raises
    ------
    RowError
        No row that can be judged, a machine that nobody knows, or a row that the model cannot predict.
    """
    if not rows:
        raise RowError("no row to judge: expected at least one")
    problems: list[BadRow] = []
    rows, specs = _known(rows, machines, problems)
    inputs = model_inputs((row.measurement, spec.id) for row, spec in zip(rows, specs, strict=True))
    answers = _predict(inputs, rows, specs, predictor, held_out, problems, progress)
    answers = _as_compiled(answers, rows, specs)
    if problems and (bad is None or answers.empty):
        raise error_of([*(bad or ()), *problems])
    if problems and bad is not None:
        bad += problems
        # Only rows with an answer are judged.
        rows, specs = [rows[place] for place in answers.index], [specs[place] for place in answers.index]
        inputs, answers = inputs.loc[answers.index].reset_index(drop=True), answers.reset_index(drop=True)
    scaled = _of_all_products(answers, inputs)
    measured = pd.DataFrame(
        {
            "measured_dense_time_s": [row.measurement.dense_time_s for row in rows],
            "measured_sparse_time_s": [row.measurement.sparse_time_s for row in rows],
            "measured_speedup_vs_dense": [row.measurement.speedup_vs_dense for row in rows],
        },
        dtype="float64",
    )
    errors = pd.DataFrame(
        {
            f"{name}_error": scaled[f"predicted_{column}"] / measured[f"measured_{column}"] - 1
            for name, column in (
                ("dense_time", "dense_time_s"),
                ("sparse_time", "sparse_time_s"),
                ("speedup", "speedup_vs_dense"),
            )
        }
    )
    generations = {spec.id: spec.generation for spec in specs}
    weak = [
        weak_baseline(generations[machine], dtype)
        for machine, dtype in zip(inputs["machine"], inputs["baseline_dtype"], strict=True)
    ]
    errors["weak_baseline"] = pd.Series(weak, dtype=bool)
    dram = {spec.id: float(spec.dram_bandwidth_bytes_per_s.value) for spec in specs}
    bandwidths = bandwidth_columns(scaled, measured, inputs["machine"].map(dram))
    return pd.concat([_labels(rows, inputs), measured, scaled, errors, bandwidths], axis=1)


def _known(
    rows: Sequence[JudgedRow], machines: Machines, problems: list[BadRow]
) -> tuple[list[JudgedRow], list[HardwareSpec]]:
    """Rows of known machines, and their machines; the others become problems."""
    known: list[JudgedRow] = []
    specs: list[HardwareSpec] = []
    for row in rows:
        try:
            specs.append(_find(row, machines))
            known.append(row)
        except RowError as error:
            problems.append(BadRow(row.file, row.number, "machine", f"machine={error}"))
    return known, specs


def _find(row: JudgedRow, machines: Machines) -> HardwareSpec:
    """The machine of a row. Rows of our own CPU kernels belong to one calibrated file, not to any machine like it."""
    name = row.measurement.machine
    spec = machines.find(name)
    if row.measurement.kernel.startswith("cpu.") and spec.id != name:
        raise RowError(
            f"{brief(name)}: expected the id of a hardware file, as nmsim calibrate writes it, given by --hardware. {spec.id} "
            "has a similar name, but is another machine."
        )
    return spec


def _predict(
    inputs: pd.DataFrame,
    rows: Sequence[JudgedRow],
    specs: Sequence[HardwareSpec],
    predictor: Predictor,
    held_out: bool,
    problems: list[BadRow],
    progress: Progress | None,
) -> pd.DataFrame:
    """Answers in the order of the rows; rows that the predictor refuses become problems and have no answer."""
    by_id = {spec.id: spec for spec in specs}
    parts = [pd.DataFrame(columns=list(ANSWER_COLUMNS))]
    done = 0
    for id_, group in inputs.groupby("machine", sort=False):
        if progress is not None:
            progress(f"predicting {len(group)} rows of {id_}", done / len(inputs))
        done += len(group)
        spec = by_id[str(id_)]
        predict = functools.partial(predictor, hardware=spec, held_out=held_out)
        answers, refused = _answers(group, predict)
        parts += answers
        for place, error in sorted(refused, key=lambda found: found[0]):
            column = error.column if isinstance(error, RowError) else ""
            named = f"column {column}: {_problem(error)}" if column else _problem(error)
            problems.append(BadRow(rows[place].file, rows[place].number, column, named))
    return pd.concat(parts[1:]).sort_index() if len(parts) > 1 else parts[0]


def _as_compiled(
    answers: pd.DataFrame, rows: Sequence[JudgedRow], specs: Sequence[HardwareSpec]
) -> pd.DataFrame:
    """Put the time from counts of machine code in place of the estimate, for rows of our own counted kernels.

    The estimate was fitted to kernels of others. Its range is kept as a ratio: nothing of ours was measured to make another.
    Counts say nothing of operands in a cache, so the estimate stands for warm rows.
    """
    answers = answers.copy()
    times_s = answers["predicted_sparse_time_s"].to_numpy(float).copy()
    families = answers["family"].tolist()
    for at, place in enumerate(answers.index):
        row = rows[place].measurement
        if not row.kernel.startswith(COMPILED):
            continue
        case, state = row.case, state_of(row)
        if case is None or case.format is None or state == "warm":
            continue
        found = counted_product(case.shape, specs[place], format=case.format, dtype=case.dtype)
        if found is not None:
            # The wait after a flush is the same for all kernels.
            wait_s = float(flush_s(state == "cold", chip(specs[place]), constants.load()))
            times_s[at], families[at] = found.time_s + wait_s, COMPILED_FAMILY
    ratio = answers["predicted_sparse_time_s"].to_numpy(float) / times_s
    for name in SPEEDUPS:
        answers[name] = answers[name].to_numpy(float) * ratio
    answers["predicted_sparse_time_s"], answers["family"] = times_s, families
    return answers


def _answers(
    inputs: pd.DataFrame, predict: Callable[[pd.DataFrame], pd.DataFrame], kinds: Sequence[str] = KINDS
) -> tuple[list[pd.DataFrame], list[tuple[int, NmsimError]]]:
    """Answers for the rows that a model takes, and the places of the rows that it refuses, each with its error.

    A model refuses all rows that it gets for the sake of one. Most often it refuses a kind of rows, such as a value type, so
    rows are parted by kind first, and only then by halves.
    """
    try:
        return [predict(inputs.reset_index(drop=True))[list(ANSWER_COLUMNS)].set_index(inputs.index)], []
    except NmsimError as error:
        refusal = error
    if len(inputs) == 1:
        return [], [(int(inputs.index[0]), refusal)]
    for place, column in enumerate(kinds):
        if inputs[column].nunique(dropna=False) > 1:
            parts = [rows for _, rows in inputs.groupby(column, sort=False, dropna=False)]
            rest = kinds[place + 1 :]
            break
    else:
        if _refused_at_any_shape(inputs, refusal, predict):
            return [], [(int(place), refusal) for place in inputs.index]
        middle = len(inputs) // 2
        parts, rest = [inputs.iloc[:middle], inputs.iloc[middle:]], ()
    found = [_answers(part, predict, rest) for part in parts]
    return [answer for answers, _ in found for answer in answers], [
        bad for _, all_bad in found for bad in all_bad
    ]


def _refused_at_any_shape(
    inputs: pd.DataFrame, refusal: NmsimError, predict: Callable[[pd.DataFrame], pd.DataFrame]
) -> bool:
    """Whether rows of one kind, some of them and plain products of a few sides, are all refused for the same reason."""
    pattern = inputs["pattern"].iloc[0]
    group = Pattern.parse(pattern).m if isinstance(pattern, str) else 1
    some = [inputs.iloc[[place]].reset_index(drop=True) for place in (0, len(inputs) // 2, len(inputs) - 1)]
    for row in (*some, *(some[0].assign(M=M, N=side * group, K=side * group) for M, side in PLAIN_SHAPES)):
        try:
            predict(row)
        except NmsimError as error:
            if _problem(error) == _problem(refusal):
                continue
        return False
    return True


def _problem(error: NmsimError) -> str:
    return error.problem if isinstance(error, RowError) else str(error)


def _of_all_products(answers: pd.DataFrame, inputs: pd.DataFrame) -> pd.DataFrame:
    """Answers for one product as answers for all products of a row."""
    sparse = inputs["sparse_products"].to_numpy(float)
    beside = inputs["dense_products_beside"].to_numpy(float)
    out = answers.copy()
    for kind in ("predicted", "bound"):
        dense_s, sparse_s = answers[f"{kind}_dense_time_s"], answers[f"{kind}_sparse_time_s"]
        out[f"{kind}_dense_time_s"] = (sparse + beside) * dense_s
        out[f"{kind}_sparse_time_s"] = sparse * sparse_s + beside * dense_s
    out["dense_bytes"] = (sparse + beside) * answers["dense_bytes"]
    out["sparse_bytes"] = sparse * answers["sparse_bytes"] + beside * answers["dense_bytes"]
    for name in SPEEDUPS:
        out[name] = (sparse + beside) / (sparse / answers[name] + beside)
    return out.rename(columns={"family": "predicted_family"})


def _labels(rows: Sequence[JudgedRow], inputs: pd.DataFrame) -> pd.DataFrame:
    measured = [row.measurement for row in rows]
    labels = pd.DataFrame(
        {
            "file": [row.file for row in rows],
            "row": [row.number for row in rows],
            "device": [row.device for row in measured],
            "written_pattern": [row.pattern for row in measured],
            "regime": [regime_of(row.M) for row in measured],
            "dtype_class": [f"{VALUE_BITS[row.dtype]}-bit" for row in measured],
            "mark": [row.mark for row in measured],
            "l2_state": [row.l2_state for row in measured],
            "source_url": [row.source_url for row in measured],
            # Stated, because a column of only None would become one of objects.
            "time_step_s": pd.Series([row.time_step_s for row in measured], dtype="float64"),
            "note": [row.note for row in measured],
        }
    )
    kept = [
        "machine",
        "dtype",
        "baseline_dtype",
        "kernel",
        "kernel_family",
        "pattern",
        "density",
        "M",
        "N",
        "K",
    ]
    return pd.concat([labels, inputs[[*kept, "threads"]]], axis=1)


def family_of(row: Measurement) -> KernelFamily:
    """The family of kernels of a row. Our own rows, which say how their operand is encoded, say by their kernel who ran it.

    `torch.cutlass` and `torch.cusparselt` are libraries on the sparse unit, `gpu.…` decode by instructions; of others the model
    decides.

    Raises
    ------
    RowError
        A row whose pattern is in words, without a family: `literature.completed` fills it.
    """
    case = row.case
    if case is None or case.pattern is None:
        if not row.kernel_family or row.density is None:
            raise RowError(
                f"kernel_family={brief(row.kernel_family)}, density={brief(row.density)}: expected both"
            )
        pattern = Pattern.parse(row.nm_pattern) if row.nm_pattern else None
        return KernelFamily(row.kernel_family, pattern, row.density)
    own = (name for sign, name in OWN_FAMILIES.items() if row.kernel.startswith(sign))
    return KernelFamily(next(own, "auto"), case.pattern, case.pattern.n / case.pattern.m)


def state_of(row: Measurement) -> str:
    """The cache state for the model. It is empty (DRAM) for a row that was timed in a graph, because it waited for no flush.

    The model's "cold" is a call by itself after a flush that wrote: its time holds launches and lines written back. Its "warm"
    is a call back to back. It derives from the sizes what the cache still holds. Sparse weights may fit if dense ones do not.
    """
    if row.l2_state == "beyond cache":
        return "warm"
    return "" if row.l2_state == "cold" and row.timing == "graph" else row.l2_state


def model_inputs(rows: Iterable[tuple[Measurement, str]]) -> pd.DataFrame:
    """Make the table that a model gets.

    Parameters
    ----------
    rows : iterable of Measurement and str
        With the id of each row's machine.

    Returns
    -------
    DataFrame
        `INPUT_COLUMNS`; `pattern` and `threads` are None if there is none. If the model decides how a row runs
        and the row names no encoding or packing, those of `Case` stand in.
    """
    records = []
    for row, machine in rows:
        family = family_of(row)
        record: dict[str, Any] = {name: getattr(row, name) for name in INPUT_COLUMNS if hasattr(row, name)}
        record |= {
            "machine": machine,
            "l2_state": state_of(row),
            "baseline_dtype": row.baseline_dtype or row.dtype,
            "pattern": str(family.pattern) if family.pattern else None,
            "kernel_family": family.name,
            "density": family.density,
        }
        if family.name in ("auto", "software"):
            record |= {name: record[name] or DEFAULTS[name] for name in ("encoding", "packing")}
        records.append(record)
    table = pd.DataFrame(records, columns=list(INPUT_COLUMNS))
    return table.astype({"pattern": "object", "threads": "object"})


UNKNOWN = "none known"
MISSED_SHARE = 0.2
"""A time that is off by less has not to be explained."""
SLOW_ON_4090 = ("10:12", "12:14", "14:16")
SLOW_SHARE = 0.4
"""Such a row was disturbed if the prediction is shorter by this share; neighbours of it are predicted within a fifth."""
HOPPER = ("h100-pcie", "h100-sxm", "h200")
NEAR_CACHE = (0.6, 1.5)
"""Dense weights between these multiples of the last-level cache may stay in it from call to call, or not."""
WEIGHTS = "{weights}"
"""Place in a reason for the size of the weights."""
TOLERANCE = 0.005
"""A time this much below its bound is rounding of the published figures."""


def why_missed(row: "pd.Series[Any]") -> str:
    """Say why, or `UNKNOWN`.

    Parameters
    ----------
    row : Series
        Of the table from `validate.judge.join.join`.
    """
    machine = row["machine"]
    weight_bytes = row["N"] * row["K"] * VALUE_BITS[row["dtype"]] / 8
    cache_bytes = chip(hwmodels.load_machine(machine)).cache_bytes
    narrow, few = VALUE_BITS[row["dtype"]] == 8, row["regime"] == "decode"
    # The first rule that holds names the reason: what a source says itself comes before what is inferred.
    rules = (
        (
            row["mark"] == "host overhead",
            "the source says that each call spends time on the host, which no model of the machine knows",
        ),
        (
            machine == "rtx4090"
            and row["pattern"] in SLOW_ON_4090
            and row["sparse_time_error"] < -SLOW_SHARE,
            "the source's times of 10:12, 12:14 and 14:16 on this GPU are often ten times those of 8:10 on the same product",
        ),
        (
            row["baseline_dtype"] != row["dtype"],
            "a kernel written by hand, judged as if it were the vendor's, against a dense product of wider values",
        ),
        (
            machine == "gb10" and row["mark"] == "anomalous",
            "the source calls large weights on the GB10 anomalous",
        ),
        (
            row["regime"] == "prefill"
            and weight_bytes > 1.5 * cache_bytes
            and row["sparse_time_error"] > MISSED_SHARE
            and machine.startswith("rtx"),
            "without this machine, what large weights cost once they leave the cache from wave to wave rests on the GB10, "
            "which pays far more",
        ),
        (
            narrow and few and row["dense_time_error"] < -MISSED_SHARE,
            "the dense 8-bit kernel takes far longer than its bytes and tiles explain: a weak baseline, not marked as one",
        ),
        (
            few
            and row["l2_state"] in ("warm", "beyond cache")
            and NEAR_CACHE[0] < weight_bytes / cache_bytes < NEAR_CACHE[1],
            "the dense weights are about as large as the last-level cache, and calls ran back to back: how much of them stays "
            "there decides",
        ),
        (
            row["mark"] == "above byte bound",
            "its source says that the speedup is above what bytes allow: operands in the cache, or a weak dense baseline",
        ),
        (
            machine in HOPPER and not narrow,
            "the only Hopper board with 16-bit rows of its kind: without it nothing was fitted to its kernels",
        ),
        ("torchao" in row["kernel"], "the time holds the quantisation of the activations too"),
    )
    return next((reason for holds, reason in rules if holds), UNKNOWN)


def bound_violations(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List measured times below the bound of their machine, each with a reason that the row itself gives.

    Parameters
    ----------
    table : DataFrame
        From `validate.judge.join.join`.

    Returns
    -------
    list of dict
        `file`, `row`, `machine`, `product` ("dense" or "sparse"), `measured_time_s` and `bound_time_s`. `share` is the
        measured share of the bound. `reason` is in words. `explanation` is the reason with the size of the weights. The
        row farthest below the bound comes first.
    """
    found = []
    for product in ("dense", "sparse"):
        measured, bound = table[f"measured_{product}_time_s"], table[f"bound_{product}_time_s"]
        below = table[measured < bound * (1 - TOLERANCE)]
        for _, row in below.iterrows():
            time_s, bound_s = float(row[f"measured_{product}_time_s"]), float(row[f"bound_{product}_time_s"])
            reason = _reason(row, time_s, bound_s)
            mebibytes = row["N"] * row["K"] * VALUE_BITS[row["dtype"]] / 8 / 2**20
            found.append(
                {
                    "file": row["file"],
                    "row": int(row["row"]),
                    "machine": row["machine"],
                    "kernel": row["kernel"],
                    "product": product,
                    "measured_time_s": time_s,
                    "bound_time_s": bound_s,
                    "share": time_s / bound_s,
                    # Reasons group rows, so the size of the weights of one row is no part of them.
                    "reason": reason.replace(WEIGHTS, ""),
                    "explanation": reason.replace(WEIGHTS, f" (dense weights: {mebibytes:.4g} MiB)"),
                }
            )
    return sorted(found, key=lambda violation: float(violation["share"]))


def _reason(row: "pd.Series[Any]", time_s: float, bound_s: float) -> str:
    # The step is NaN for a publication that cuts no digits, and NaN makes this false.
    if time_s + row["time_step_s"] >= bound_s:
        step_s = row["time_step_s"]
        step = "whole microseconds" if step_s == 1e-6 else f"steps of {step_s:g} s"
        return f"within the last digit: the publication cuts times to {step}"
    if row["l2_state"] in ("warm", "beyond cache"):
        return (
            f"timed back to back without an L2 flush: some of the operands{WEIGHTS} was still in L2. The bound takes all of it "
            "from DRAM"
        )
    if row["l2_state"] == "":
        return (
            f"the publication does not say whether L2 was flushed. Some of the operands{WEIGHTS} may have been in L2. The "
            "bound takes all of it from DRAM"
        )
    return (
        "the operands came from DRAM, so the machine ran faster than its datasheet says (a higher clock or memory rate), "
        "was another machine than taken, or the row is wrong"
    )
