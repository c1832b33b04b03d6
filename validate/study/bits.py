"""Measured bits: every linear tensor of a checkpoint is pruned, encoded, decoded again and compared with the formula."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nmsim.energy import Energy
from nmsim.energy import energy as sum_squares
from nmsim.errors import BitstreamError, ContainerError, EncodingError
from nmsim.files.container import FORMAT_KEY
from nmsim.files.safetensors import TensorInfo
from nmsim.files.selection import Selection, left_by_group
from nmsim.files.sharded import Checkpoint, open_checkpoint
from nmsim.files.weights import read_weight
from nmsim.format import SparseFormat
from nmsim.mask import BoolArray, prune
from nmsim.pattern import Pattern
from nmsim.tensor import PackedTensor, compress
from nmsim.units import bits_to_bytes

Progress = Callable[[str, int, int], None]
"""Called with what is worked on next, the elements done and the elements in all."""

BITS_COLUMNS = (
    "tensor", "dtype", "elems", "pattern", "encoding", "packing", "groups", "fixed_width",
    "formula_metadata_bytes", "measured_metadata_bytes", "measured_payload_bits", "measured_padding_bits",
    "measured_alignment_bits", "entropy_bits", "measured_values_bytes", "measured_values_padding_bytes",
    "dense_bytes", "sum_of_squares", "kept_sum_of_squares",
)  # fmt: skip
"""Columns of `bits.csv`. `formula_metadata_bytes` is exact if `fixed_width`, else an expectation."""


@contextlib.contextmanager
def open_weights(path: str | os.PathLike[str], formats: Sequence[SparseFormat]) -> Iterator[Checkpoint]:
    """Open a dense checkpoint that has something to prune for every format.

    Raises
    ------
    ContainerError
        No readable checkpoint, one that nmsim has packed, or one without a tensor to prune.
    """
    with open_checkpoint(path) as checkpoint:
        if any(FORMAT_KEY in file.metadata for file in checkpoint.files):
            raise ContainerError(
                f"{path}: is packed already, expected a dense checkpoint (nmsim unpack it first)"
            )
        choice = Selection().of(checkpoint)
        infos = choice.tensors.values()
        for pattern in {fmt.pattern for fmt in formats}:
            if not any(choice.why_not(info, pattern) is None for info in infos):
                choice.refuse_nothing(path)
        yield checkpoint


def left_dense(checkpoint: Checkpoint, pattern: Pattern) -> list[dict[str, Any]]:
    """Add up what a study does not prune and why: a record per kind of reason, the largest first.

    Returns
    -------
    list of dict
        `why`, `tensors`, `weights_elems`, `dense_bytes`, an `example` of the reason, and `share` of all weights.
    """
    choice = Selection().of(checkpoint)
    total = sum(choice.weights(info) for info in choice.tensors.values())
    reasons = ((info, choice.why_not(info, pattern)) for info in choice.tensors.values())
    left = left_by_group(
        (why.group, why.reason, choice.weights(info), info.end - info.begin) for info, why in reasons if why
    )
    return [record | {"share": record["weights_elems"] / total if total else 0.0} for record in left]


def measure_checkpoint(
    checkpoint: Checkpoint, formats: Sequence[SparseFormat], *, progress: Progress | None = None
) -> pd.DataFrame:
    """Prune and encode the linear tensors of a checkpoint, one at a time.

    Parameters
    ----------
    checkpoint : Checkpoint
        From `open_weights`.
    formats : sequence of SparseFormat
    progress : function, optional

    Returns
    -------
    DataFrame
        Columns `BITS_COLUMNS`; one row per tensor and format.

    Raises
    ------
    BitstreamError, EncodingError
        The stream has not the length of the formula, or does not decode to its mask.
    PatternError
        A weight that is NaN or infinite.
    """
    by_pattern: dict[Pattern, list[SparseFormat]] = {}
    for fmt in formats:
        by_pattern.setdefault(fmt.pattern, []).append(fmt)
    choice = Selection().of(checkpoint)
    jobs = [
        (file, info, pattern)
        for file in checkpoint.files
        for info in file.in_data_order()
        for pattern in by_pattern
        if choice.why_not(info, pattern) is None
    ]
    total = sum(_elems(info) * len(by_pattern[pattern]) for _, info, pattern in jobs)
    done, rows, threads = 0, [], os.cpu_count() or 1
    for file, info, pattern in jobs:
        # One tensor is in memory at a time, and one mask serves all formats of a pattern.
        weight = read_weight(checkpoint, choice, info)
        mask = weight.mask(pattern)
        mask = prune(weight.x, pattern, axis=weight.axis) if mask is None else mask
        energy = sum_squares(weight.real(), mask, threads=threads)
        for fmt in by_pattern[pattern]:
            if progress is not None:
                progress(f"{info.name} {fmt.short}", done, total)
            packed = compress(weight.x, fmt, axis=weight.axis, mask=mask, threads=threads)
            try:
                rows.append(measured_row(info.name, packed, mask, energy))
            except (BitstreamError, EncodingError) as error:
                raise error.within(file.where(info.name)) from error
            done += _elems(info)
        del weight
    if progress is not None:
        progress("", total, total)
    return pd.DataFrame(rows, columns=list(BITS_COLUMNS))


def measured_row(
    name: str, packed: PackedTensor, mask: BoolArray, energy: Energy
) -> tuple[str | int | float | bool, ...]:
    """Compare a packed tensor with the formula and with its mask, and make its row of `BITS_COLUMNS`.

    Raises
    ------
    BitstreamError
        The stream is not as long as the formula says.
    EncodingError
        The stream does not decode to the mask.
    """
    # A difference would make every number of the report doubtful, so it is an error, not a remark.
    fixed, formula_bytes = formula_metadata_bytes(packed)
    foot = packed.footprint
    if fixed and len(packed.metadata) != formula_bytes:
        raise BitstreamError(
            f"{packed.format}: {packed.n_groups} groups were encoded to "
            f"{len(packed.metadata)} bytes of metadata, the formula says {formula_bytes}"
        )
    if not np.array_equal(packed.mask(), mask):
        raise EncodingError(
            f"{packed.format}: the metadata decode to another mask than the one that was encoded"
        )
    return (
        name, packed.dtype.name, int(np.prod(packed.shape, dtype=np.int64)), str(packed.pattern),
        packed.format.encoding.name, str(packed.format.packing), packed.n_groups, fixed, formula_bytes,
        len(packed.metadata), foot.metadata_payload_bits, foot.metadata_padding_bits, foot.metadata_alignment_bits,
        packed.n_groups * packed.pattern.entropy_bits, foot.values_bytes, foot.values_padding_bytes,
        foot.dense_bytes, energy.total, energy.kept,
    )  # fmt: skip


def formula_metadata_bytes(packed: PackedTensor) -> tuple[bool, int]:
    """Count the bytes that a tensor's metadata must take, from its shape alone.

    Returns
    -------
    tuple of bool and int
        Whether all codes have one width, and the bytes: exact then, else the expectation over uniform masks.
    """
    fmt = packed.format
    if is_fixed_width(fmt):
        return True, fmt.stream_bytes(packed.n_groups)
    expected_bits = packed.n_groups * fmt.encoding.expected_bits_per_group(fmt.pattern)
    return False, bits_to_bytes(round(expected_bits))


def is_fixed_width(fmt: SparseFormat) -> bool:
    """Say whether all codes of a format have one width.

    Examples
    --------
    >>> is_fixed_width(SparseFormat.parse("2:4/gap:2")), is_fixed_width(SparseFormat.parse("8:16/gap:2"))
    (True, False)
    """
    return fmt.encoding.expected_bits_per_group(fmt.pattern) == fmt.bits_per_group


def bits_per_element(bits: pd.DataFrame) -> pd.DataFrame:
    """Add the tensors up: one row per format, in bits per element of the dense tensors.

    Returns
    -------
    DataFrame
        `pattern, encoding, packing, tensors, elems, fixed_width`, then bits per element:
        `measured_values_, measured_metadata_, measured_padding_, formula_metadata_, entropy_, dense_bits_per_elem`
        (values and metadata with their padding; the padding also separately), `measured_footprint_vs_dense` and
        `energy_kept`: the share of all tensors' sum of squares; a tensor whose sum is not finite counts in
        neither sum.
    """
    # One tensor with infinite weights would otherwise make the energy of all tensors NaN.
    finite = np.isfinite(bits["sum_of_squares"])
    work = bits.assign(
        padding_bits=bits["measured_padding_bits"]
        + bits["measured_alignment_bits"]
        + 8 * bits["measured_values_padding_bytes"],
        sum_of_squares=bits["sum_of_squares"].where(finite, 0.0),
        kept_sum_of_squares=bits["kept_sum_of_squares"].where(finite, 0.0),
    )
    grouped = work.groupby(["pattern", "encoding", "packing"], sort=False)
    sums = grouped.sum(numeric_only=True)
    out = pd.DataFrame(
        {
            "tensors": grouped.size(),
            "elems": sums["elems"],
            "fixed_width": grouped["fixed_width"].all(),
            "measured_values_bits_per_elem": 8 * sums["measured_values_bytes"] / sums["elems"],
            "measured_metadata_bits_per_elem": 8 * sums["measured_metadata_bytes"] / sums["elems"],
            "measured_padding_bits_per_elem": sums["padding_bits"] / sums["elems"],
            "formula_metadata_bits_per_elem": 8 * sums["formula_metadata_bytes"] / sums["elems"],
            "entropy_bits_per_elem": sums["entropy_bits"] / sums["elems"],
            "dense_bits_per_elem": 8 * sums["dense_bytes"] / sums["elems"],
            "measured_footprint_vs_dense": (sums["measured_values_bytes"] + sums["measured_metadata_bytes"])
            / sums["dense_bytes"],
            "energy_kept": sums["kept_sum_of_squares"] / sums["sum_of_squares"],
        }
    )
    return out.reset_index()


def _elems(info: TensorInfo) -> int:
    return int(np.prod(info.shape, dtype=np.int64))
