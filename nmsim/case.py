"""What is asked and what is answered: a GEMM shape, a case, a prediction. Frozen, hashable, with a stable id."""

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, SupportsIndex, get_args

from nmsim.errors import NmsimError, PatternError, RowError, brief
from nmsim.format import FormatLike, SparseFormat, as_format
from nmsim.pattern import Pattern

Phase = Literal["decode", "prefill"]
SparseOperand = Literal["weights", "activations"]
DEFAULT_DTYPE = "bf16"
DEFAULT_OPERAND: SparseOperand = "weights"
DEFAULT_PHASE: Phase = "decode"
"""What a case has if nobody says otherwise; calls, commands and tables of cases take these."""

VALUE_BITS = {
    "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4,
}  # fmt: skip
"""Value type of a case -> bits of one stored value."""

VALUE_TYPE_NAMES = {
    "fp32": ("float32", "float", "f32", "single"),
    "tf32": ("tensorfloat32",),
    "fp16": ("float16", "half", "f16"),
    "bf16": ("bfloat16",),
    "fp8": ("float8", "f8", "e4m3", "e4m3fn", "e5m2"),
    "int8": ("i8", "s8"),
    "fp4": ("float4", "f4", "e2m1", "e2m1fn"),
    "int4": ("i4", "s4"),
}
"""Value type of a case -> what numpy, torch, safetensors and vendors call it."""


def value_type(text: object, name: str = "dtype") -> str:
    """Find the value type of a case that a name stands for.

    Capitals, `torch.`, and the bits of exponent and mantissa in names such as `float8_e4m3` are accepted.

    Parameters
    ----------
    text : str
    name : str
        Of the argument, for the error; empty if the caller names it.

    Returns
    -------
    str
        A key of `VALUE_BITS`.

    Raises
    ------
    RowError
        Another name.

    Examples
    --------
    >>> [value_type(text) for text in ("bfloat16", "FP8", "float8_e4m3fn", "torch.half", "int8")]
    ['bf16', 'fp8', 'fp8', 'fp16', 'int8']
    """
    if isinstance(text, str):
        wanted = text.strip().lower().removeprefix("torch.").replace("-", "_")
        for key, others in VALUE_TYPE_NAMES.items():
            names = (key, *others)
            if wanted in names or wanted in (f"{one}_{other}" for one in names for other in others):
                return key
        # The hint is one of the names that the error lists, also if another name of that type is nearer.
        keys = {one: key for key, others in VALUE_TYPE_NAMES.items() for one in (key, *others)}
        near = [keys[one] for one in difflib.get_close_matches(wanted, keys, n=1)]
    else:
        near = []
    hint = f"; did you mean {brief(near[0])}?" if near else ""
    given = f"{name}={brief(text)}" if name else brief(text)
    raise RowError(f"{given}: expected one of {', '.join(VALUE_BITS)}{hint}")


@dataclass(frozen=True)
class GemmShape:
    """Y[M, N] = X[M, K] W[N, K]^T: M tokens, N out features, K in features. All in elements.

    Raises
    ------
    RowError
        A dimension is not a positive integer.
    """

    M: int
    N: int
    K: int

    def __post_init__(self) -> None:
        for name, value in (("M", self.M), ("N", self.N), ("K", self.K)):
            if isinstance(value, bool) or not isinstance(value, SupportsIndex) or value.__index__() < 1:
                raise RowError(f"GEMM dimension {name}={brief(value)}: expected a positive int")
            object.__setattr__(self, name, value.__index__())


@dataclass(frozen=True)
class Case:
    """One question: this product, with this operand pruned and stored so.

    Parameters
    ----------
    shape : GemmShape
    format : SparseFormat, Pattern, text such as `"8:16/index"`, or None
        How the sparse operand is stored. None or `"dense"` for a dense case; `sparse_operand` is then without effect.
    dtype : str
        Value type of both operands: a key of `VALUE_BITS`, or another name of it (`value_type`).
    sparse_operand : {"weights", "activations"}

    Raises
    ------
    RowError
        A field holds a value outside its list.
    PatternError
        A text that is no pattern.

    Examples
    --------
    >>> Case(GemmShape(1, 4096, 4096), "8:16/combinatorial").format.bits_per_group
    14
    """

    shape: GemmShape
    format: SparseFormat | None
    dtype: str
    sparse_operand: SparseOperand

    def __init__(
        self,
        shape: GemmShape,
        format: FormatLike | None = None,
        *,
        dtype: str = DEFAULT_DTYPE,
        sparse_operand: SparseOperand = DEFAULT_OPERAND,
    ) -> None:
        if not isinstance(shape, GemmShape):
            raise RowError(f"case shape={brief(shape)}: expected a GemmShape")
        if not isinstance(format, SparseFormat | Pattern | str | None):
            raise RowError(f"case format={brief(format)}: expected a SparseFormat, a Pattern, text, or None")
        try:
            stored = as_format(format)
        except PatternError:
            raise
        except NmsimError as error:
            raise RowError(f"case: {error}") from error
        if sparse_operand not in get_args(SparseOperand):
            expected = ", ".join(get_args(SparseOperand))
            raise RowError(f"case sparse_operand={brief(sparse_operand)}: expected one of {expected}")
        kind = value_type(dtype, "case dtype")
        fields = {"shape": shape, "format": stored, "dtype": kind, "sparse_operand": sparse_operand}
        for name, field in fields.items():
            object.__setattr__(self, name, field)

    @property
    def pattern(self) -> Pattern | None:
        """The pattern of the format; None for a dense case."""
        return self.format.pattern if self.format else None


def case_id(case: Case, phase: Phase = DEFAULT_PHASE) -> str:
    """Twelve hex digits that depend on the case and its phase alone: the key that joins predictions and measurements.

    Parameters
    ----------
    case : Case
    phase : {"decode", "prefill"}
        The step of a model that the product belongs to. It changes no time, so it is no field of a case.

    Raises
    ------
    RowError
        Another phase.

    Examples
    --------
    >>> case_id(Case(GemmShape(1, 8192, 8192), "2:4/bitmask", dtype="fp32"))
    '6c162a6d2fc5'
    """
    if phase not in get_args(Phase):
        raise RowError(f"phase={brief(phase)}: expected one of {', '.join(get_args(Phase))}")
    fields: dict[str, Any] = {
        "shape": asdict(case.shape),
        "phase": phase,
        "dtype": case.dtype,
        "pattern": None,
    }
    if case.format is not None:
        fields |= {
            "pattern": str(case.format.pattern),
            "encoding": case.format.encoding.name,
            "packing": str(case.format.packing),
            "sparse_operand": case.sparse_operand,
        }
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Prediction:
    """One answer: what the model expects of a case on a machine, the least time it can take, and why.

    All times in seconds for one product, all traffic in bytes from or to DRAM. `predicted_*` is the estimate: the
    time of kernels like those measured so far. `predicted_speedup_low` to `predicted_speedup_high` held
    `INTERVAL_SHARE` of `comparable_rows` measured speedups around theirs, on machines that were not in the fit. They
    are NaN if there are no such rows. `extrapolates` says that those rows are of another pattern or kind of kernel, or
    that there are none. `bound_*` is the least time that the machine's numbers allow, stage by stage. `limit` names the
    stage that takes longest: `"memory"`, `"decode"`, `"select"` or `"matrix"`. `explanation` says it in words.
    `bound_speedup_vs_dense` is the ratio of two bounds, and no bound of the speedup; that is `speedup_at_most`.
    """

    case: Case
    hardware: str
    execution: str
    predicted_time_s: float
    predicted_dense_time_s: float
    predicted_speedup_vs_dense: float
    predicted_speedup_low: float
    predicted_speedup_high: float
    comparable_rows: int
    extrapolates: bool
    bound_time_s: float
    bound_memory_s: float
    bound_decode_s: float
    bound_select_s: float
    bound_matrix_s: float
    bound_dense_time_s: float
    bound_speedup_vs_dense: float
    values_bytes: int
    metadata_bytes: int
    dense_operand_bytes: int
    output_bytes: int
    dense_traffic_bytes: int
    limit: str
    explanation: str

    @property
    def speedup_at_most(self) -> float:
        """The speedup if the pruned product took no longer than its bound; the dense time is the estimate."""
        return self.predicted_dense_time_s / self.bound_time_s

    @property
    def predicted_bytes_per_s(self) -> float:
        """Effective bandwidth: bytes moved over the estimated time. It may exceed that of the DRAM if a cache helps."""
        return self.traffic_bytes / self.predicted_time_s

    @property
    def predicted_dense_bytes_per_s(self) -> float:
        """The same of the dense product."""
        return self.dense_traffic_bytes / self.predicted_dense_time_s

    @property
    def traffic_bytes(self) -> int:
        """Bytes moved between DRAM and the chip."""
        return self.values_bytes + self.metadata_bytes + self.dense_operand_bytes + self.output_bytes
