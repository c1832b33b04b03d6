"""The file of a campaign: what a TOML file may say, checked key by key."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from kernels.measure.round import (
    ALL_CORES,
    BEST,
    CAMPAIGN_FOLDER,
    Campaign,
    Round,
    campaign_file,
    combined,
    formats_of,
    shipped,
)
from nmsim import encodings
from nmsim.case import GemmShape, Phase, SparseOperand
from nmsim.errors import NmsimError, SpecError, brief
from nmsim.fields import Dtype
from nmsim.format import DEFAULT_ENCODING, DENSE, SparseFormat
from nmsim.support.names import did_you_mean
from nmsim.support.schema import About, Number, Parsed, read_record, record

__all__ = [
    "CAMPAIGN_FOLDER",
    "Campaign",
    "CampaignFile",
    "Round",
    "RoundTable",
    "campaign_file",
    "load",
    "shipped",
]

KERNELS = (
    *("cpu.avx512", "cpu.avx2", "cpu.portable"),
    *(
        "gpu.gemv",
        "gpu.gemv_e4m3",
        "gpu.gemv_int8",
        "gpu.mma",
        "gpu.gemm_small",
        "gpu.unpack_mm",
        "torch.cutlass",
        "torch.cusparselt",
    ),
    *("torch.cusparselt_search", "torch.fp8"),
    *("gpu.skip_gemv", "gpu.prune_skip_gemv", "gpu.activations_mm", "gpu.prune_activations_mm"),
    *("gpu.prune", "gpu.prune_vector", "gpu.prune_mitigated", "gpu.pack", "gpu.unpack", "gpu.read"),
)
"""Kernels of all backends, by name; a test holds that it is what they have."""


def _threads(value: Any) -> int | None:
    if value == ALL_CORES:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"expected a whole number of at least 1, or {brief(ALL_CORES)}")
    return value


def _shape(value: Any) -> GemmShape:
    if isinstance(value, GemmShape):
        return value
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise SpecError("expected three positive whole numbers; shapes are [M, N, K]")
    try:
        return GemmShape(*value)
    except NmsimError as error:
        raise SpecError(f"{error}; shapes are [M, N, K]") from error


def _pattern(text: Any) -> str:
    if text != DENSE:
        SparseFormat.parse(text)
    return str(text)


def _encoding(text: Any) -> str:
    return encodings.get(text).name


def _kernel(text: Any) -> str:
    """Refuse a slip in the name of a kernel that nmsim knows; the backend looks at all other names, and at options."""
    if not isinstance(text, str) or not text.strip():
        raise SpecError("expected text")
    name = text.partition("[")[0]
    if name.startswith(tuple(f"{kernel.partition('.')[0]}." for kernel in KERNELS)) and name not in KERNELS:
        raise SpecError(f"expected {BEST} or one of {', '.join(KERNELS)}{did_you_mean(name, KERNELS)}")
    return text


TEXT = {"type": "string", "pattern": r"\S"}
PatternText = Annotated[str, Parsed(_pattern, schema=TEXT)]
EncodingText = Annotated[str, Parsed(_encoding, keep=True, schema=TEXT)]
KernelText = Annotated[str, Parsed(_kernel, schema=TEXT)]
COUNT = {"type": "integer", "minimum": 1}
Shape = Annotated[
    GemmShape,
    Parsed(
        _shape, words="`[M, N, K]`", schema={"type": "array", "items": COUNT, "minItems": 3, "maxItems": 3}
    ),
]
Threads = Annotated[
    int | None, Parsed(_threads, words="number or `all`", schema={"anyOf": [COUNT, {"const": ALL_CORES}]})
]


# fmt: off
@record
class RoundTable:
    """Rounds of all combinations of shapes, value types, threads and cache states, each with all formats and kernels."""

    shapes: Annotated[tuple[Shape, ...], About("Shapes, in elements.")]
    patterns: Annotated[tuple[PatternText, ...], About("Patterns. `dense` is for kernels that only move a matrix.")]
    dtypes: Annotated[tuple[Dtype, ...], About("Value types.")]
    l2_state: Annotated[tuple[Literal["cold", "warm"], ...], About("Whether operands come from DRAM, or lie in a cache.")]
    encodings: Annotated[tuple[EncodingText, ...] | None, About("Metadata encodings. Only `dense` needs none.")] = None
    threads: Annotated[tuple[Threads, ...], About("Cores at work, or `all`.")] = (1,)
    kernels: Annotated[tuple[KernelText, ...], About("Kernels by name, or `best`.")] = (BEST,)
    phase: Annotated[Phase, About("Phase of the model.")] = "decode"
    sparse_operand: Annotated[SparseOperand, About("Operand that is sparse.")] = "weights"
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse empty lists, and what is no pattern or encoding of nmsim."""
        for name in ("shapes", "patterns", "dtypes", "l2_state", "encodings", "threads", "kernels"):
            if getattr(self, name) == ():
                yield name, "empty, expected a list of at least one"
        if self.encodings is None and set(self.patterns) != {DENSE}:
            yield "encodings", "missing; this key is required"
            return
        try:
            formats_of(self.patterns, self.encodings or (DEFAULT_ENCODING,))
        except NmsimError as error:
            yield "", str(error)

    @property
    def formats(self) -> tuple[SparseFormat | None, ...]:
        """Every pattern with every encoding; None for `dense`."""
        return formats_of(self.patterns, self.encodings or (DEFAULT_ENCODING,))


# fmt: off
@record
class CampaignFile:
    """What a campaign file holds."""

    seed: Annotated[int, Number("seed", "Seed of the data.")]
    repetitions: Annotated[int, Number("repetitions", "Timed repetitions of a round.", least=1)]
    warmup: Annotated[int, Number("repetitions", "Repetitions before them that do not count.")]
    budget_s: Annotated[int, Number("s", "Time for all rounds. Rounds share it.", least=1, most=1e9)]
    round: Annotated[tuple[RoundTable, ...], About("Rounds, in the order in which they are run.")]
    # fmt: on

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse a campaign without rounds."""
        if not self.round:
            yield "round", "empty, expected an array of tables, [[round]]"


def load(campaign: str | Path) -> Campaign:
    """Read a campaign that ships with the package, by name, or a TOML file.

    Raises
    ------
    SpecError
        No such campaign, or keys that are unknown, missing or malformed: the error names the file and each key.
    """
    path = campaign_file(campaign)
    file = read_record(CampaignFile, path)
    rounds = dict.fromkeys(each for table in file.round for each in combined(**_fields(table)))
    return Campaign(path.stem, file.seed, file.repetitions, file.warmup, file.budget_s, tuple(rounds))


def _fields(table: RoundTable) -> dict[str, Any]:
    return {each.name: getattr(table, each.name) for each in dataclasses.fields(cast(Any, table))}
