"""`nmsim predict`: one product on one or more machines, with the stage that limits it named."""

from dataclasses import asdict
from typing import Any

import hwmodels
from nmsim.case import DEFAULT_DTYPE, Case, GemmShape, Prediction
from nmsim.cli import console, options
from nmsim.cli.console import Answer
from nmsim.format import DEFAULT_ENCODING, DENSE, SparseFormat

PATTERNS = ["2:4", "4:8", "8:16", "16:32"]
MACHINES = ["h200"]
EXAMPLES = {
    "predict": [
        "nmsim predict 1,4096,4096 -p 8:16/combinatorial -H h200",
        "nmsim predict 2048,4096,4096 -p 2:4,8:16 -e index,bitmask -H h200,h200-8x16",
    ]
}


def predict(
    shape: options.Shape,
    pattern: options.Patterns = PATTERNS,
    encoding: options.Encodings = None,
    packing: options.Packings = options.BITSTREAM,
    hardware: options.Hardware = MACHINES,
    dtype: options.Dtype = DEFAULT_DTYPE,
    sparse_operand: options.Operand = "weights",
) -> Answer:
    """Predict the time of a product, sparse and dense, with its range.

    The product is Y[M,N] = X[M,K] W[N,K]^T. Times are those of kernels like the ones measured so far. The range held 80 % of
    comparable measurements. A ~ says that those are of another pattern or kind of kernel, a ? that there are none. The
    best case is what memory, decode, select and matrix rates allow. If no encoding is named, a machine takes the one that its
    sparse unit reads.
    """
    gemm = GemmShape(*options.read_shape(shape))
    machines = [hwmodels.load_machine(name) for name in options.split_names(hardware, "hardware")]
    asked = options.formats(pattern, encoding, packing)
    answers: list[Prediction] = []
    for machine in machines:
        for one in asked:
            stored = one.format
            # If no encoding was named, each machine gets the one that its own unit reads.
            if stored is not None and not one.chosen:
                native = hwmodels.best_format(stored.pattern, machine, dtype=dtype, operand=sparse_operand)  # type: ignore[arg-type]
                stored = SparseFormat(stored.pattern, native.encoding, stored.packing)
            case = Case(gemm, stored, dtype=dtype, sparse_operand=sparse_operand)  # type: ignore[arg-type]
            answers.append(hwmodels.predict(case, machine))

    def show() -> None:
        _show(
            answers,
            f"Predicted time for M={gemm.M}, N={gemm.N}, K={gemm.K}, {answers[0].case.dtype}, sparse {sparse_operand}",
        )
        if not all(one.chosen for one in asked):
            console.say(
                f"No encoding was named: each row has the one that its machine's sparse unit reads, or else {DEFAULT_ENCODING}."
            )
        if len(answers) == 1:
            console.say(answers[0].explanation)

    return Answer([_record(answer) for answer in answers], show)


def _show(answers: list[Prediction], title: str) -> None:
    console.print_table(
        title,
        ["hardware", "format", "time µs", "dense µs", "speedup vs dense", "range", "best case", "bound by", "execution"],
        [
            (
                a.hardware,
                options.format_text(a.case.format),
                f"{a.predicted_time_s * 1e6:.4g}",
                f"{a.predicted_dense_time_s * 1e6:.4g}",
                f"{a.predicted_speedup_vs_dense:.2f}x",
                _range(a),
                f"{a.bound_speedup_vs_dense:.2f}x",
                a.limit,
                a.execution,
            )
            for a in answers
        ],
        note="The dense time is that of the dense product on the same machine. Best cases are compared with its best.",
        # A terminal of 100 columns leaves these out; `--wide` prints all.
        extra=["execution"],
        spare=["best case", "dense µs"],
    )  # fmt: skip


def _range(answer: Prediction) -> str:
    """The error bar, and how well founded it is."""
    if not answer.comparable_rows:
        return "?"
    mark = "~" if answer.extrapolates else ""
    return f"{mark}{answer.predicted_speedup_low:.2f}-{answer.predicted_speedup_high:.2f}x"


def _record(answer: Prediction) -> dict[str, Any]:
    fields, case = asdict(answer), answer.case
    del fields["case"]
    cells: dict[str, Any] = asdict(case.shape) | {"dtype": case.dtype, "pattern": str(case.pattern or DENSE)}
    if case.format is not None:
        cells |= {"sparse_operand": case.sparse_operand, "encoding": case.format.encoding.name}
        cells["packing"] = str(case.format.packing)
    return cells | fields
