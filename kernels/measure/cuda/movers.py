"""Kernels that move data, as a campaign can time them on a CUDA device, and the copies that they are compared with.

Each is checked without our GPU kernels. Packed bytes are compared with those that nmsim and the CPU codec make of the same
matrix on the host. Unpacked matrices are compared with the matrix with zeros. Sums are compared with torch's sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kernels.measure.cuda.calls import Call
from kernels.timing import gate
from kernels.timing.gate import GateError
from nmsim.case import Case, SparseOperand
from nmsim.format import SparseFormat
from nmsim.units import ceil_div

SWAPPED_SHARE = 1e-4
"""If a shift is subtracted first, this share of elements may be other ones, or differ by more than a rounding. Means that
differ in their last bit choose differently between elements that differ by as little."""


def _format_of(case: Case) -> SparseFormat:
    """The format of a case of a kernel that knows patterns."""
    assert case.format is not None
    return case.format


@dataclass(frozen=True)
class Pruning:
    """How tokens are pruned, as `kernels.gpu.movers.prune` and `kernels.ops.activations` name it."""

    shift: str = "none"
    by_vector: bool = False
    variance: bool = False


class Matrix:
    """A matrix on a device, and what the host makes of it, each made once.

    Its rows repeat, so that the host, which is slow, packs few of them, and all that a kernel stores is checked.

    Parameters
    ----------
    block : Tensor [B, K]
        The rows that repeat.
    vector : float32 Tensor [K]
        Scores are multiplied by it if a vector is asked for.
    rows : int
        Of the matrix.
    """

    def __init__(self, block: Any, vector: Any, rows: int) -> None:
        self.rows, self.vector, self._device = rows, vector, block.device
        self.dense = self.repeated(block)
        self._block = block.cpu()
        self._stored: dict[tuple[SparseFormat, Pruning], tuple[Any, ...]] = {}
        self._masks: dict[Any, Any] = {}

    def repeated(self, part: Any) -> Any:
        """Lay what belongs to the rows that repeat, [B, ...], out for all rows of the matrix, on its device."""
        times = ceil_div(self.rows, len(part))
        return part.to(self._device).repeat(times, *(1,) * (part.ndim - 1))[: self.rows].contiguous()

    def stored(self, case: Case, how: Pruning) -> tuple[Any, ...]:
        """What the host packs of the rows that repeat: values, metadata, eta and v, in main memory."""
        from kernels.ops.activations import prune_on_cpu

        stored = _format_of(case)
        key = (stored, how)
        if key not in self._stored:
            vector = self.vector.cpu() if how.by_vector else None
            self._stored[key] = prune_on_cpu(self._block, stored, how.shift, 0.0, None, vector, how.variance)
        return self._stored[key]

    def mask(self, case: Case) -> Any:
        """What nmsim keeps: bool Tensor [R, K] on the device."""
        import torch

        import nmsim
        from kernels.stored.nm_weight import as_array

        if case.pattern not in self._masks:
            assert case.pattern is not None
            kept = nmsim.prune(as_array(self._block), case.pattern)
            self._masks[case.pattern] = self.repeated(torch.from_numpy(kept))
        return self._masks[case.pattern]


@dataclass(frozen=True)
class Kernel:
    """A kernel that moves data.

    Parameters
    ----------
    build : callable
        A call on operands of its own.
    check : callable
        Raises a `NmsimError` if the results of a call are wrong.
    of_patterns : bool
        Whether a pattern and an encoding say what it does.
    sparse_operand : {"weights", "activations"}
        Whose matrix it moves: [N, K] of weights, or [M, K] of activations. The third dimension of its case is 1.
    module : str
        Where the kernel is.
    """

    build: Callable[[Matrix, Case], Call]
    check: Callable[[Matrix, Case, tuple[Any, ...]], None]
    of_patterns: bool = True
    sparse_operand: SparseOperand = "weights"
    module: str = ""

    def problem(self, case: Case) -> str:
        """The reason against it for a case; "" if there is none."""
        if self.of_patterns != (case.pattern is not None):
            return f"expected {'patterns and encodings' if self.of_patterns else 'the pattern dense'}"
        if self.sparse_operand != case.sparse_operand and self.of_patterns:
            return f"it moves {self.sparse_operand}, expected sparse_operand {self.sparse_operand}"
        name = "M" if self.sparse_operand == "weights" else "N"
        size = getattr(case.shape, name)
        if size == 1:
            return ""
        return f"{name}={size}: it moves one matrix of {self.sparse_operand}, expected {name}=1"

    def matrix_shape(self, case: Case) -> tuple[int, int]:
        """Rows and columns of the matrix that it moves."""
        return (case.shape.N if self.sparse_operand == "weights" else case.shape.M), case.shape.K


def pruning(how: Pruning) -> Kernel:
    """Tokens pruned and packed in one pass."""

    def build(matrix: Matrix, case: Case) -> Call:
        from kernels.gpu.movers import prune

        format, x, out = _format_of(case), matrix.dense.clone(), _room(matrix.dense, case)
        vector = matrix.vector.clone() if how.by_vector else None
        given = (x,) if vector is None else (x, vector)

        def run() -> tuple[Any, ...]:
            prune.launch(x, format, out, shift=how.shift, vector=vector, variance=how.variance)
            return out

        return Call(run, _bytes(*given, *out))

    def check(matrix: Matrix, case: Case, results: tuple[Any, ...]) -> None:
        want = matrix.stored(case, how)
        # Without arithmetic the bytes are exact; with it only the error of float32 sums can be checked.
        if how.shift == "none" and not how.variance:
            for name, found, expected in zip(("values", "metadata", "eta", "v"), results, want, strict=True):
                _check_bytes(name, found, matrix.repeated(expected))
        else:
            _check_mitigated(matrix, case, results, want)

    return Kernel(build, check, sparse_operand="activations", module="kernels.gpu.movers.prune")


def _build_pack(matrix: Matrix, case: Case) -> Call:
    from kernels.gpu.movers import compress

    format, dense, mask = _format_of(case), matrix.dense.clone(), matrix.mask(case).clone()
    values, metadata, *_ = _room(dense, case)

    def run() -> tuple[Any, ...]:
        return (values, metadata, compress.enqueue(dense, mask, format, (values, metadata)))

    return Call(run, _bytes(dense, mask, *run()))


def _check_pack(matrix: Matrix, case: Case, results: tuple[Any, ...]) -> None:
    want = matrix.stored(case, Pruning())
    _check_bytes("values", results[0], matrix.repeated(want[0]))
    _check_bytes("metadata", results[1], matrix.repeated(want[1]))
    if results[2].any():
        raise GateError("a tile is said to keep too many, expected none")


def _build_unpack(matrix: Matrix, case: Case) -> Call:
    from kernels.gpu.movers import decompress

    format, out = _format_of(case), matrix.dense.new_empty(matrix.dense.shape)
    values, metadata = (matrix.repeated(part) for part in matrix.stored(case, Pruning())[:2])

    def run() -> tuple[Any, ...]:
        decompress.launch(values, metadata, format, out)
        return (out,)

    return Call(run, _bytes(values, metadata, out))


def _check_unpack(matrix: Matrix, case: Case, results: tuple[Any, ...]) -> None:
    _check_bytes("result", results[0], matrix.dense.where(matrix.mask(case), 0))


def _build_read(matrix: Matrix, case: Case) -> Call:
    from kernels.gpu import controls

    source = matrix.dense.clone()

    def run() -> tuple[Any, ...]:
        return (controls.read(source),)

    return Call(run, _bytes(source, *run()))


def _check_read(matrix: Matrix, case: Case, results: tuple[Any, ...]) -> None:
    import torch

    found, want = (
        int(words.sum(dtype=torch.int64)) % 2**32
        for words in (results[0], matrix.dense.view(-1).view(torch.int32))
    )
    if found != want:
        raise GateError(f"words add up to {found} modulo 2^32, expected {want}")


KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        "gpu.prune": pruning(Pruning()),
        "gpu.prune_vector": pruning(Pruning(by_vector=True)),
        "gpu.prune_mitigated": pruning(Pruning(shift="mean", variance=True)),
        "gpu.pack": Kernel(_build_pack, _check_pack, module="kernels.gpu.movers.compress"),
        "gpu.unpack": Kernel(_build_unpack, _check_unpack, module="kernels.gpu.movers.decompress"),
        "gpu.read": Kernel(_build_read, _check_read, of_patterns=False, module="kernels.gpu.controls"),
    }
)
"""Kernel of a row -> how it is run and checked."""


def copies(source: Any) -> dict[str, Call]:
    """Every available copy of an int32 Tensor [words], into one target: torch's, and ours."""
    from kernels.gpu import controls

    target = source.new_empty(source.shape)

    def call(copy: Callable[[], object]) -> Call:
        def run() -> tuple[Any, ...]:
            copy()
            return (target,)

        return Call(run, _bytes(source, target))

    ours = call(lambda: controls.copy(source, target))
    return {"torch.copy_": call(lambda: target.copy_(source)), "gpu.copy": ours}


def check_copy(source: Any, results: tuple[Any, ...]) -> None:
    """Refuse a copy with other bytes."""
    _check_bytes("copy", results[0], source)


def _room(dense: Any, case: Case) -> tuple[Any, Any, Any, Any]:
    """Room for what is stored of a matrix: values, metadata, eta and v."""
    import torch

    from kernels.stored.nm_weight import empty_rows

    return *empty_rows(dense, _format_of(case)), *dense.new_empty((2, len(dense)), dtype=torch.float32)


def _bytes(*tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _check_bytes(name: str, found: Any, want: Any) -> None:
    import torch

    if found.shape != want.shape or found.dtype != want.dtype:
        raise GateError(
            f"{name} are {found.dtype} {tuple(found.shape)}, expected {want.dtype} {tuple(want.shape)}"
        )
    differ = found.contiguous().view(torch.uint8) != want.contiguous().to(found.device).view(torch.uint8)
    if count := int(differ.sum()):
        raise GateError(f"{name}: {count} of {differ.numel()} bytes differ, expected none")


def _check_mitigated(matrix: Matrix, case: Case, results: tuple[Any, ...], want: tuple[Any, ...]) -> None:
    """Hold what was stored of shifted tokens against what the host stores: eta, v, and the pruned matrix.

    Sums of K terms in another order differ as `gate.tolerance` says, eta as a share of the mean magnitude. An element that
    both keep is rounded once, from differences that differ as eta does.
    """
    import torch

    from kernels import ops

    n_rows = len(want[0])
    for name, found in zip(("values", "metadata", "eta", "v"), results, strict=True):
        _check_bytes(name, found, matrix.repeated(found[:n_rows]))
    block = matrix.dense[:n_rows]
    tolerance = gate.tolerance(block.shape[1])
    magnitude = block.abs().mean(dim=1, dtype=torch.float32)
    eta, v = (part.to(block.device) for part in want[2:])
    for name, found, expected, scale in (("eta", results[2], eta, magnitude), ("v", results[3], v, v)):
        error = ((found[:n_rows] - expected).abs() / scale).nan_to_num(nan=float("inf")).max().item()
        if error > tolerance:
            raise GateError(f"{name}: relative error {error:.3g}, expected at most {tolerance:.3g}")
    kept, expected = (
        ops.decompress(ops.NMWeight(values, metadata, _format_of(case), tuple(block.shape)))
        .to(block.device)
        .float()
        for values, metadata in ((results[0][:n_rows].cpu(), results[1][:n_rows].cpu()), want[:2])
    )
    step = torch.finfo(block.dtype).eps
    allowed = step * expected.abs() + tolerance * magnitude[:, None]
    # Written so that NaN counts as a difference.
    differ = ~((kept - expected).abs() <= allowed)
    share = int(differ.sum()) / differ.numel()
    if share > SWAPPED_SHARE:
        raise GateError(f"{share:.3g} of the elements differ, expected at most {SWAPPED_SHARE:g}")
