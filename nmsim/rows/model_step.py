"""A measured step of a whole model as a record: with sparse and with dense weights, their times, their bytes, and where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from nmsim.case import VALUE_BITS, Phase
from nmsim.errors import RowError
from nmsim.format import sparse_format
from nmsim.rows.record import (
    Cell,
    Column,
    Commit,
    Dirty,
    Note,
    NumpyVersion,
    TimeUtc,
    TorchVersion,
    check_cells,
    columns_of,
)

KEY = (
    *("machine", "model", "model_digest", "dtype", "format", "sparse_call", "phase"),
    *("batch", "new_tokens", "context_tokens", "threads", "commit"),
)
"""Columns that distinguish rows."""
CALLS = {
    "ops.sparse_linear": "`NMLinear`, as `sparsify_` puts it in place",
    "ops.sparse_linear stacked": "the same after `ops.stack_`",
    "cpu.matmul": "the CPU kernel, called without an operator of torch",
    "F.linear": "`nn.Linear` of torch",
    "cpu.dense_matmul": "the dense kernel that is built like the sparse ones, called without an operator of torch",
}
"""How linear layers of a model are called -> what that is."""
_DIGEST = (r"[0-9a-f]{16}", "16 hex digits")
_SPREAD = ("_p20", "", "_p80")


@dataclass(frozen=True, kw_only=True)
class ModelStepRow:
    """A step of a whole model, measured with sparse weights and with the same weights as dense ones.

    A step processes `new_tokens` of each of `batch` sequences, whose context is then `context_tokens`. Times are medians with
    20th and 80th percentile. Those of the speedup are of ratios within a repetition. Bytes are those of all weights, the
    embedding among them, which a tied head shares.

    Raises
    ------
    RowError
        A field holds what it may not. The error names the field, the value and what was expected.
    """

    machine: Annotated[str, Cell("Id of the machine")]
    device: Annotated[str, Cell("What the processor calls itself")]
    model: Annotated[str, Cell("Model by name, or the name of its file or folder")]
    model_digest: Annotated[str, Cell("First 16 hex digits of the SHA-256 of its weights", shape=_DIGEST)]
    dtype: Annotated[str, Cell("Value type of weights and activations", texts=tuple(VALUE_BITS))]
    format: Annotated[str, Cell("How the weights of pruned layers are stored", named=sparse_format)]
    phase: Annotated[Phase, Cell("`decode` or `prefill`")]
    batch: Annotated[int, Cell("Sequences")]
    new_tokens: Annotated[int, Cell("Tokens of each sequence that the step processes")]
    context_tokens: Annotated[int, Cell("Tokens of each sequence after the step")]
    threads: Annotated[int, Cell("Cores at work")]
    sparse_call: Annotated[str, Cell("How sparse layers are called", texts=tuple(CALLS))]
    dense_call: Annotated[str, Cell("The fastest way to call dense layers", texts=tuple(CALLS))]
    sparse_time_s: Annotated[float, Cell("Time of the step with sparse weights, s")]
    sparse_time_s_p20: Annotated[float, Cell("Its 20th percentile, s")]
    sparse_time_s_p80: Annotated[float, Cell("Its 80th percentile, s")]
    dense_time_s: Annotated[float, Cell("Time of the step with dense weights, s")]
    dense_time_s_p20: Annotated[float, Cell("Its 20th percentile, s")]
    dense_time_s_p80: Annotated[float, Cell("Its 80th percentile, s")]
    speedup_vs_dense: Annotated[float, Cell("Median of the ratio of dense to sparse time")]
    speedup_vs_dense_p20: Annotated[float, Cell("Its 20th percentile")]
    speedup_vs_dense_p80: Annotated[float, Cell("Its 80th percentile")]
    rest_time_s: Annotated[float, Cell("Time of the step if those layers return zeros at once, s")]
    sparse_bytes: Annotated[int, Cell("Bytes of all weights of the sparse model")]
    dense_bytes: Annotated[int, Cell("Bytes of all weights of the dense model")]
    other_dense_calls: Annotated[str, Cell("Other dense calls, each with its median time")] = ""
    max_rel_err: Annotated[float, Cell("Largest difference of a logit, over the largest logit", least=0)]
    reps: Annotated[int, Cell("Repetitions, interleaved")]
    torch: TorchVersion = ""
    transformers: Annotated[str, Cell("Version of transformers")] = ""
    numpy: NumpyVersion = ""
    numba: Annotated[str, Cell("Version of numba")] = ""
    commit: Commit = ""
    dirty: Dirty = None
    timestamp_utc: TimeUtc = ""
    note: Note = ""
    OLDER: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_cells(self)
        for name in ("sparse_time_s", "dense_time_s", "speedup_vs_dense"):
            low, median, high = (getattr(self, name + suffix) for suffix in _SPREAD)
            if not low <= median <= high:
                raise RowError(f"{name}={median}: expected {low} to {high}, its percentiles", column=name)
        if self.context_tokens < self.new_tokens:
            raise RowError(
                f"context_tokens={self.context_tokens}: expected at least new_tokens={self.new_tokens}",
                column="context_tokens",
            )

    @property
    def key(self) -> tuple[object, ...]:
        """What distinguishes this row, so that a run can skip what a file holds already."""
        return tuple(getattr(self, name) for name in KEY)

    @property
    def tokens_per_s(self) -> float:
        """Tokens that the sparse model processes per second."""
        return self.batch * self.new_tokens / self.sparse_time_s

    @property
    def dense_tokens_per_s(self) -> float:
        """The same of the dense model."""
        return self.batch * self.new_tokens / self.dense_time_s


MODEL_STEP_COLUMNS: Mapping[str, Column] = columns_of(ModelStepRow)
"""The columns of a file of measured steps, in order, by name."""
