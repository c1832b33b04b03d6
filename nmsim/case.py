"""What is asked and what is answered: a GEMM shape, a case, a prediction. Frozen, hashable, with a stable id."""

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, SupportsIndex, get_args

from nmsim import encodings, packing
from nmsim.errors import NmsimError, RowError
from nmsim.pattern import Pattern

Phase = Literal["decode", "prefill"]
SparseOperand = Literal["weights", "activations"]

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
        every = [one for key, others in VALUE_TYPE_NAMES.items() for one in (key, *others)]
        near = difflib.get_close_matches(wanted, every, n=1)
    else:
        near = []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    given = f"{name}={text!r}" if name else repr(text)
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
                raise RowError(f"GEMM dimension {name}={value!r}: expected a positive int")
            object.__setattr__(self, name, value.__index__())


@dataclass(frozen=True)
class Case:
    """One question: this product, in this phase, with this operand pruned and encoded so.

    Parameters
    ----------
    shape : GemmShape
    phase : {"decode", "prefill"}
    dtype : str
        Value type of both operands: a key of `VALUE_BITS`, or another name of it (`value_type`).
    pattern : Pattern, its text, or None
        None for a dense case; `sparse_operand` and the metadata fields are then without effect, on `case_id` too.
    sparse_operand : {"weights", "activations"}
    encoding : str
        Metadata encoding (`nmsim.encodings`).
    packing : str
        Packing policy (`nmsim.packing`).

    Raises
    ------
    RowError
        A field holds a value outside its list.
    PatternError
        A text that is no pattern.
    """

    shape: GemmShape
    phase: Phase = "decode"
    dtype: str = "bf16"
    pattern: Pattern | None = None
    sparse_operand: SparseOperand = "weights"
    encoding: str = "bitmask"
    packing: str = "bitstream"

    def __post_init__(self) -> None:
        if not isinstance(self.shape, GemmShape):
            raise RowError(f"case shape={self.shape!r}: expected a GemmShape")
        if isinstance(self.pattern, str):
            object.__setattr__(self, "pattern", Pattern.parse(self.pattern))  # type: ignore[unreachable]
        if not isinstance(self.pattern, Pattern | None):
            raise RowError(f"case pattern={self.pattern!r}: expected a Pattern, its text, or None")
        try:
            object.__setattr__(self, "encoding", encodings.get(self.encoding).name)
            object.__setattr__(self, "packing", str(packing.parse(self.packing)))
        except NmsimError as error:
            raise RowError(f"case: {error}") from error
        object.__setattr__(self, "dtype", value_type(self.dtype, "case dtype"))
        for name, value, allowed in (
            ("phase", self.phase, get_args(Phase)),
            ("sparse_operand", self.sparse_operand, get_args(SparseOperand)),
        ):
            if value not in allowed:
                raise RowError(f"case {name}={value!r}: expected one of {', '.join(allowed)}")

    @property
    def case_id(self) -> str:
        """Twelve hex digits that depend on the fields alone: the key that joins predictions and measurements."""
        fields = asdict(self)
        fields["pattern"] = str(self.pattern) if self.pattern else None
        if self.pattern is None:
            for name in ("sparse_operand", "encoding", "packing"):
                del fields[name]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Prediction:
    """One answer: what the model expects of a case on a machine, the least time it can take, and why.

    All times in seconds for one product, all traffic in bytes from or to DRAM. `predicted_*` is the estimate: what
    kernels like those measured so far would take. `predicted_speedup_low` to `predicted_speedup_high` held
    `INTERVAL_SHARE` of `comparable_rows` measured speedups around theirs, on machines that had no part in the fit; NaN
    where there are none. `extrapolates` says that those rows are of another pattern or kind of kernel, or that there
    are none. `bound_*` is the best case that the machine's numbers allow, stage by stage; `bound` names the stage that
    takes longest: `"memory"`, `"decode"`, `"select"` or `"matrix"`; `explanation` says it in words.
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
    bound: str
    explanation: str

    @property
    def traffic_bytes(self) -> int:
        """Bytes moved between DRAM and the chip."""
        return self.values_bytes + self.metadata_bytes + self.dense_operand_bytes + self.output_bytes
