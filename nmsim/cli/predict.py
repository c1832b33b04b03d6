"""`nmsim predict`: one product on one or more machines, with the stage that bounds it named."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from nmsim.case import Case, GemmShape, Prediction
from nmsim.cli import console
from nmsim.errors import SpecError
from nmsim.format import as_format
from nmsim.pattern import Pattern


def predict(
    shape: Annotated[
        str,
        typer.Argument(
            help="M,N,K: tokens, out features, in features, such as 1,4096,4096.", metavar="M,N,K"
        ),
    ],
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", "--patterns", "-p", help="Patterns N:M. Default 2:4,4:8,8:16,16:32."),
    ] = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option(
            "--encoding", "--encodings", "-e", help="Encodings. Default bitmask,index,combinatorial."
        ),
    ] = None,
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            "--hardware", "-H", help="Machines by name, or paths of hardware TOML files. Default h200."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Value type: fp32, fp16, bf16, fp8, int8 ...")] = "bf16",
    sparse_operand: Annotated[str, typer.Option(help="weights or activations.")] = "weights",
    packing: Annotated[
        str, typer.Option(help="bitstream, no_straddle[:W], power_of_two or byte.")
    ] = "bitstream",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict the time of Y[M,N] = X[M,K] W[N,K]^T, sparse against dense, with an error bar and the bound.

    Times are what kernels like those measured so far would take. The range held 80 % of comparable measurements; a ~
    says that those are of another pattern or kind of kernel, a ? that there are none. The bound is the best case that
    memory, decode, select and matrix rates allow.
    """
    import hwmodels

    gemm = read_shape(shape)
    machines = [hwmodels.load_machine(name) for name in console.split_names(hardware or ["h200"], "hardware")]
    answers = [
        hwmodels.predict(
            Case(
                gemm,
                as_format(Pattern.parse(text), encoding=name, packing=packing),
                dtype=dtype,
                sparse_operand=sparse_operand,  # type: ignore[arg-type]
            ),
            machine,
        )
        for machine in machines
        for text in console.split_names(pattern or ["2:4", "4:8", "8:16", "16:32"], "pattern")
        for name in console.split_names(encoding or ["bitmask", "index", "combinatorial"], "encoding")
    ]
    if as_json:
        console.print_json([_record(answer) for answer in answers])
        return
    console.print_table(
        f"Predicted time for M={gemm.M}, N={gemm.N}, K={gemm.K}, {dtype}, sparse {sparse_operand}",
        [
            "hardware",
            "pattern",
            "encoding",
            "time µs",
            "dense µs",
            "speedup vs dense",
            "range",
            "best case",
            "bound by",
            "execution",
        ],
        [
            (
                a.hardware,
                str(a.case.pattern),
                a.case.format.encoding.name if a.case.format else "",
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
        note="The dense time is that of the dense product on the same machine; best cases are compared with its best.",
    )
    if len(answers) == 1:
        console.out.print(answers[0].explanation)


def _range(answer: Prediction) -> str:
    """The error bar, and how well founded it is."""
    if not answer.comparable_rows:
        return "?"
    mark = "~" if answer.extrapolates else ""
    return f"{mark}{answer.predicted_speedup_low:.2f}-{answer.predicted_speedup_high:.2f}x"


def read_shape(text: str) -> GemmShape:
    """Take the shape of a product from a command line."""
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise SpecError(f"shape {text!r}: expected M,N,K as three positive integers, such as 1,4096,4096")
    return GemmShape(*(int(part) for part in parts))


def _record(answer: Prediction) -> dict[str, Any]:
    answers, case = asdict(answer), answer.case
    del answers["case"]
    cells: dict[str, Any] = asdict(case.shape) | {"dtype": case.dtype, "pattern": str(case.pattern)}
    if case.format is not None:
        cells |= {"sparse_operand": case.sparse_operand, "encoding": case.format.encoding.name}
        cells["packing"] = str(case.format.packing)
    return cells | answers
