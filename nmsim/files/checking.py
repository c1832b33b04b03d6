"""Whether a checkpoint is N:M: the answer, and where it is not."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.errors import ContainerError, NmsimError
from nmsim.files import quantised
from nmsim.files.checkpoint import Counter, Progress
from nmsim.files.container import FORMAT_KEY, read_entries, read_packed
from nmsim.files.fitting import Fit, fit
from nmsim.files.safetensors import TensorInfo
from nmsim.files.selection import Choice, Left, Selection, left_by_group
from nmsim.files.sharded import Checkpoint, open_checkpoint
from nmsim.files.weights import read_weight
from nmsim.pattern import Pattern, as_pattern
from nmsim.tensor import decompress


@dataclass(frozen=True)
class TensorFit:
    """How one tensor fits: its name, dtype, dense shape and axis of the groups, and the counts."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: int
    fit: Fit


@dataclass(frozen=True)
class CheckReport:
    """How a checkpoint fits a pattern.

    Parameters
    ----------
    pattern : Pattern
    tensors : tuple of TensorFit
        The weights that were compared.
    left : tuple of dict
        What was not compared and why, a record per kind of reason.
    """

    pattern: Pattern
    tensors: tuple[TensorFit, ...]
    left: tuple[dict[str, Any], ...]

    @property
    def fits(self) -> bool:
        """All weights that were compared fit."""
        return all(tensor.fit.fits for tensor in self.tensors)


def check_checkpoint(
    source: str | os.PathLike[str],
    pattern: Pattern | str,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    axis: int | None = None,
    shown: int = 3,
    progress: Progress | None = None,
) -> CheckReport:
    """Compare the zeros of a checkpoint's weights with a pattern. Nothing is written.

    Parameters
    ----------
    source : path
        A `.safetensors` file, a `*.safetensors.index.json`, or the folder of one; dense, or packed by nmsim.
    pattern : Pattern or str
        Such as `"2:4"`.
    include, exclude, axis
        As in `nmsim.files.checkpoint.pack_checkpoint`: by default the linear weights of the body are compared.
    shown : int
        Violating groups of each tensor to name, at most.
    progress : function, optional

    Returns
    -------
    CheckReport

    Raises
    ------
    ContainerError
        A damaged source, no weight to compare, or weights in a quantised format that nmsim does not read.
    PatternError
        No such pattern or axis, or a weight that is NaN or infinite.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> from nmsim import save_file
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> save_file({"fc.weight": np.array([[3, 0, -0.0, 4], [1, 1, 1, 0]], np.float32)}, path)
    >>> report = check_checkpoint(path, "2:4")
    >>> report.fits, report.tensors[0].fit.first
    (False, ((1, 0),))
    """
    pattern = as_pattern(pattern)
    rule = Selection(include, exclude, axis)
    found: list[TensorFit] = []
    with open_checkpoint(source) as checkpoint:
        counter = Counter(checkpoint.total_bytes, progress)
        if any(FORMAT_KEY in file.metadata for file in checkpoint.files):
            for file in checkpoint.files:
                for entry in read_entries(file).values():
                    counter.tell(entry.name)
                    dense = decompress(read_packed(file, entry))
                    _refuse(checkpoint, entry.values_name, dense)
                    one = fit(dense, entry.axis, pattern, shown=shown)
                    dtype = file.tensors[entry.values_name].dtype
                    found.append(TensorFit(entry.name, dtype, entry.shape, entry.axis, one))
            return CheckReport(pattern, tuple(found), ())
        # What is not compared is listed, so that a yes does not hide how little it is about.
        choice = rule.of(checkpoint)
        left: list[tuple[str, str, int, int]] = []
        for file in checkpoint.files:
            for info in file.in_data_order():
                counter.tell(info.name)
                reason = _read_or_left(checkpoint, choice, info, pattern, shown, found)
                if reason is not None:
                    left.append((reason.group, reason.reason, choice.weights(info), info.stored_bytes))
                counter.done_bytes += info.stored_bytes
        if not found:
            choice.refuse_nothing(source)
        counter.tell("")
    return CheckReport(pattern, tuple(found), tuple(left_by_group(left)))


def _read_or_left(
    checkpoint: Checkpoint,
    choice: Choice,
    info: TensorInfo,
    pattern: Pattern,
    shown: int,
    found: list[TensorFit],
) -> Left | None:
    """Compare one tensor, or say why it is left out. An unreadable weight of the body makes any answer a guess."""
    role = choice.roles[info.name]
    about = role.quantisation
    if about is not None and about.part == "packed":
        # Globs of the user come first, because they can leave out what cannot be read.
        named = choice.named(info)
        if named is not None:
            return named
        if not role.body and choice.rule.include is None:
            return Left("packed quantised weight outside of the body", role.reason)
        if not about.readable:
            reader = f"; {about.verb} reads it" if about.verb else ""
            raise ContainerError(
                f"{checkpoint.file_of[info.name].where(info.name)}: is {about.format}, which nmsim check cannot read, expected "
                f"unquantised weights, FP8, INT8, MXFP4 or GPTQ (--exclude leaves tensors out{reader})"
            )
        try:
            dense = quantised.read(checkpoint, info.name, about)
        except NmsimError as error:
            where = checkpoint.file_of[info.name].path
            raise error.within(f"{where}: {about.format}") from error
        _refuse(checkpoint, info.name, dense)
        axis = dense.ndim - 1
        found.append(
            TensorFit(info.name, about.format, dense.shape, axis, fit(dense, axis, pattern, shown=shown))
        )
        return None
    reason = choice.why_not(info, pattern)
    if reason is None:
        weight = read_weight(checkpoint, choice, info)
        one = fit(weight.x, weight.axis, pattern, shown=shown)
        found.append(TensorFit(info.name, info.dtype, info.shape, weight.axis, one))
    return reason


def _refuse(checkpoint: Checkpoint, name: str, dense: NDArray[Any]) -> None:
    try:
        dtypes.refuse_not_finite(dense, "value")
    except NmsimError as error:
        raise error.within(checkpoint.file_of[name].where(name)) from error
