"""What `nmsim measure` shows: a table of products, one of transfers, and what is left to do."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmsim.cli import console
from nmsim.rows.measurement import Measurement
from nmsim.rows.transfer import Transfer

if TYPE_CHECKING:
    from kernels.timing.rounds import Outcome

PRODUCT_HEAD = (
    *("M,N,K", "dtype", "pattern", "encoding", "kernel", "threads", "operands"),
    *("time µs", "dense µs", "speedup vs dense", "", "dense call"),
)
TRANSFER_HEAD = (
    *("rows,columns", "dtype", "pattern", "encoding", "kernel", "operands", "MB moved"),
    *("time µs", "GB/s", "copy GB/s", "share of copy", "", "copy"),
)


def show_products(outcome: "Outcome[Measurement]", file: Path) -> None:
    """Print the products of a run."""
    _show("speedup with p20-p80", PRODUCT_HEAD, map(_product, outcome.rows), outcome, file)


def show_transfers(outcome: "Outcome[Transfer]", file: Path) -> None:
    """Print the transfers of a run."""
    title = "share of the bandwidth of a copy of as many bytes, with p20-p80"
    _show(title, TRANSFER_HEAD, map(_transfer, outcome.rows), outcome, file)


def _show(
    title: str,
    head: Sequence[str],
    cells: Iterable[tuple[object, ...]],
    outcome: "Outcome[Any]",
    file: Path,
) -> None:
    if outcome.rows:
        first = outcome.rows[0]
        console.print_table(
            f"Measured on {first.machine} ({first.device}); medians, {title}", list(head), cells
        )
    said = [f"{len(outcome.rows)} rows appended to {file}"]
    if outcome.skipped:
        said.append(f"{outcome.skipped} were there already")
    if outcome.left:
        said.append(f"{outcome.left} left for want of time: run the same command again")
    console.out.print("; ".join(said), highlight=False, markup=False)


def _product(row: Measurement) -> tuple[object, ...]:
    assert row.sparse_time_s is not None
    assert row.dense_time_s is not None
    return (
        f"{row.M},{row.N},{row.K}",
        row.dtype,
        row.pattern,
        row.encoding,
        row.kernel,
        row.threads,
        row.l2_state,
        _microseconds(row.sparse_time_s),
        _microseconds(row.dense_time_s),
        f"{row.speedup_vs_dense:.3f}x",
        f"{row.speedup_vs_dense_p20:.2f}-{row.speedup_vs_dense_p80:.2f}",
        row.baseline,
    )


def _transfer(row: Transfer) -> tuple[object, ...]:
    return (
        f"{row.rows},{row.columns}",
        row.dtype,
        row.pattern,
        row.encoding,
        row.kernel,
        row.l2_state,
        f"{row.moved_bytes / 1e6:.4g}",
        _microseconds(row.time_s),
        f"{row.moved_bytes / row.time_s / 1e9:.4g}",
        f"{row.copy_bytes / row.copy_time_s / 1e9:.4g}",
        f"{100 * row.share_of_copy:.1f} %",
        f"{100 * row.share_of_copy_p20:.0f}-{100 * row.share_of_copy_p80:.0f}",
        row.baseline,
    )


def _microseconds(time_s: float) -> str:
    return f"{time_s * 1e6:.0f}" if time_s >= 1e-3 else f"{time_s * 1e6:.4g}"
