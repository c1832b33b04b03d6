"""N:M activations for torch: prune and compress tokens online, and multiply them with a dense weight.

Importing this module registers `nmsim::prune_activations`, `nmsim::activations_linear` and `nmsim::skip_linear`. On CUDA
tensors they run the Triton kernels of `kernels.gpu`, on others nmsim and torch on the CPU. None has gradients.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import nmsim
from kernels import cpu
from kernels.ops import checks, dispatch
from kernels.stored.errors import KernelError
from kernels.stored.nm_weight import as_array, as_sparse, as_tensor, checked_tensor, checked_type, empty_rows
from kernels.stored.rows import kernel_format
from nmsim.format import FormatLike, SparseFormat

__all__ = ["NMActivations", "activations_linear", "prune_activations", "row_sums", "skip_linear"]

LEAST_VARIANCE = 1e-9
"""The variance of what is kept counts as at least so much, as in the authors' code."""


class NMActivations(NamedTuple):
    """Pruned tokens X[..., K], T of them, as `prune_activations` makes them.

    Attributes
    ----------
    values : Tensor [T, G * n] of float32, float16 or bfloat16
        Stored values x_ij - eta, each row filled with zeros to whole steps, as `docs/explanation/cpu-kernels.md` says.
    metadata : uint8 Tensor [T, bytes of a row]
    eta : float32 Tensor [T] or None
        What was subtracted from each token; None if nothing was, or a vector.
    v : float32 Tensor [T] or None
        The factor of the products of each token.
    format : str
        Text of the format, as operators take it.
    shape : tuple of int
        Of X.
    """

    values: Tensor
    metadata: Tensor
    eta: Tensor | None
    v: Tensor | None
    format: str
    shape: tuple[int, ...]


def prune_activations(
    x: Tensor,
    format: FormatLike,
    *,
    shift: Literal["mean", "median"] | float | Tensor | None = None,
    vector: Tensor | None = None,
    variance: bool = False,
) -> NMActivations:
    """Keep the N best of every M consecutive elements of each token, and compress them.

    Eta is subtracted in float32, and the score is the magnitude of the difference. The difference is rounded once, to the
    type of x, when it is stored. Of equal scores the lower index wins, all NaN are alike and above infinity. Without shift
    and vector nothing is computed: magnitudes are compared by stored bits and values stored bit for bit, as `ops.prune` and
    `ops.compress` do. If M does not divide K, the tail of t elements keeps min(N, t).

    Parameters
    ----------
    x : Tensor [..., K] of float32, float16 or bfloat16
        In any memory order.
    format : SparseFormat, Pattern or str
        As for `ops.compress`.
    shift : {"mean", "median"}, float or Tensor [K], optional
        Eta: of each token its mean or lower median, one number for all, or one for each in feature.
    vector : Tensor [K], optional
        The score is |(x_ij - eta) f_j|, in float32.
    variance : bool
        Find v_i = sqrt(Var_j(x_ij - eta) / max(Var_j(kept), 1e-9)), unbiased, what is dropped as zeros.

    Returns
    -------
    NMActivations

    Raises
    ------
    KernelError
        A tensor of another type, shape or device; a format without kernels; a variance of a single in feature. Or a CUDA tensor
        if Triton is not installed.

    Source
    ------
    Formulas, linear_act_sp.py of the code of arXiv 2509.22166; `nmsim.mitigation.golden` in float64.

    Examples
    --------
    >>> kept = prune_activations(torch.tensor([[1.0, 5.0, 3.0, 3.0]]), "2:4/bitmask", shift="mean")
    >>> kept.values[0, :2].tolist(), kept.metadata.tolist(), kept.eta.tolist()
    ([-2.0, 2.0], [[51, 51]], [3.0])
    """
    checked_type("x", x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected [..., K] with K at least 1")
    # torch.compile passes text on, but cannot trace what makes it.
    text = format if isinstance(format, str) else str(kernel_format(format))
    kind, constant, channels = checks.kind_of_shift(shift)
    if vector is not None:
        checked_type("vector", vector)
    tokens = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    values, metadata, eta, v = torch.ops.nmsim.prune_activations(
        tokens, text, kind, constant, channels, vector, variance
    )
    of_token = kind not in ("none", "vector")
    return NMActivations(
        values, metadata, eta if of_token else None, v if variance else None, text, tuple(x.shape)
    )


def activations_linear(
    activations: NMActivations,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    row_sums: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Multiply pruned tokens with a dense weight: y_io = (v_i sum_j xsp_ij w_oj + eta_i r_o) (1 + s_o) + b_o.

    Sums are float32 (tensor cores add in their own order and width), the result is rounded once, to the type of the values.
    What a vector was subtracted comes back as a constant: add (1 + s) (W eta) to the bias.

    Parameters
    ----------
    activations : NMActivations
    weight : Tensor [O, K] of the type of the values
        Contiguous.
    bias, scale : Tensor [O], optional
    row_sums : Tensor [O]
        Of the weight, r = W 1, as `row_sums` makes them; looked at if the tokens have an eta.

    Returns
    -------
    Tensor [..., O] of the type of the values

    Raises
    ------
    KernelError
        Operands of another type, shape or device, or no row sums if they are needed.

    Examples
    --------
    >>> weight = torch.eye(4)
    >>> kept = prune_activations(torch.tensor([1.0, 5.0, 3.0, 3.0]), "2:4", shift="mean")
    >>> activations_linear(kept, weight, row_sums=row_sums(weight)).tolist()
    [1.0, 5.0, 3.0, 3.0]
    """
    if _checked_activations(activations).eta is not None and row_sums is None:
        raise KernelError(
            "row_sums is missing: the tokens were shifted, expected row_sums(weight) to shift their products back"
        )
    checked_type("weight", weight)
    if weight.ndim == 2 and weight.shape[1] != activations.shape[-1]:
        raise KernelError(
            f"weight has shape {tuple(weight.shape)}: expected [O, {activations.shape[-1]}], K of the activations"
        )
    y: Tensor = torch.ops.nmsim.activations_linear(
        activations.values, activations.metadata, weight, activations.format, activations.v, activations.eta,
        None if activations.eta is None else row_sums, scale, bias,
    )  # fmt: skip
    return y.reshape(*activations.shape[:-1], weight.shape[0])


def skip_linear(activations: NMActivations, weight: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """Multiply one pruned token: y_o = sum_j xsp_j w_jo + b_o, over what is kept.

    Sums are float32, the result is rounded once. A weight that no kept element meets may hold anything on a CUDA device; on the
    CPU an infinity or NaN there makes NaN.

    Parameters
    ----------
    activations : NMActivations
        Of one token, from `prune_activations` without a shift of the token and without the variance.
    weight : Tensor [K, O] of the type of the values
        Contiguous.
    bias : Tensor [O], optional

    Returns
    -------
    Tensor [..., O] of the type of the values

    Raises
    ------
    KernelError
        More than one token, one that was shifted or is to be scaled, or operands of another type, shape or device.

    Examples
    --------
    >>> kept = prune_activations(torch.tensor([1.0, 5.0, 3.0, 2.0]), "2:4")
    >>> skip_linear(kept, torch.ones(4, 3)).tolist()
    [8.0, 8.0, 8.0]
    """
    if _checked_activations(activations).eta is not None or activations.v is not None:
        raise KernelError(
            "the token was shifted or is to be scaled: expected neither; activations_linear takes both"
        )
    checked_type("weight", weight)
    if weight.ndim != 2 or weight.shape[0] != activations.shape[-1]:
        raise KernelError(
            f"weight has shape {tuple(weight.shape)}: expected [{activations.shape[-1]}, O], in features first"
        )
    y: Tensor = torch.ops.nmsim.skip_linear(
        activations.values, activations.metadata, weight, activations.format, bias
    )
    return y.reshape(*activations.shape[:-1], weight.shape[1])


def row_sums(weight: Tensor) -> Tensor:
    """Add up each row of a weight [O, K] in float32: r [O], made once, for `activations_linear`.

    Examples
    --------
    >>> row_sums(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [3.0, 7.0]
    """
    return checked_tensor("weight", weight).detach().sum(dim=1, dtype=torch.float32)


@torch.library.custom_op("nmsim::prune_activations", mutates_args=())
def _prune_activations(
    x: Tensor, format: str, shift: str, constant: float, channels: Tensor | None, vector: Tensor | None,
    variance: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    parsed = checks.checked_tokens(x, format, channels, vector, variance)
    checks.check_dense(x=x, shift=channels, vector=vector)
    f32 = _vector(channels), _vector(vector)
    out = _empty(x, parsed)
    if len(x) == 0:
        return out
    if not dispatch.serves(x):
        return prune_on_cpu(x.detach(), parsed, shift, constant, *f32, variance)
    about = {"shift": shift, "constant": constant, "channels": f32[0], "vector": f32[1], "variance": variance}
    dispatch.module("movers.prune").launch(x.detach().contiguous(), parsed, out, **about)
    return out


@_prune_activations.register_fake
def _(
    x: Tensor, format: str, shift: str, constant: float, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty(x, checks.checked_tokens(x, format, *rest))


@torch.library.custom_op("nmsim::activations_linear", mutates_args=())
def _activations_linear(
    values: Tensor, metadata: Tensor, weight: Tensor, format: str, v: Tensor | None, eta: Tensor | None,
    row_sums: Tensor | None, scale: Tensor | None, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    vectors = {"v": v, "eta": eta, "row_sums": row_sums, "scale": scale, "bias": bias}
    parsed = checks.checked_product(values, metadata, weight, format, **vectors)
    checks.check_contiguous(weight)
    checks.check_packed(values, metadata, checks.bytes_of_values(values, parsed.pattern))
    checks.check_dense(weight=weight, **vectors)
    epilogue = {name: _vector(part) for name, part in vectors.items()}
    values, weight = values.detach(), weight.detach()
    y = values.new_empty(len(values), len(weight))
    if len(values) == 0:
        return y
    if not dispatch.serves(values):
        return multiply_on_cpu(values, metadata, weight, parsed, **epilogue)
    dispatch.module("products.sparse_activations").launch(values, metadata, weight, parsed, y, **epilogue)
    return y


@_activations_linear.register_fake
def _(values: Tensor, metadata: Tensor, weight: Tensor, format: str, *epilogue: Tensor | None) -> Tensor:
    vectors = dict(zip(("v", "eta", "row_sums", "scale", "bias"), epilogue, strict=True))
    checks.checked_product(values, metadata, weight, format, **vectors)
    checks.check_contiguous(weight)
    return values.new_empty((values.shape[0], weight.shape[0]))


@torch.library.custom_op("nmsim::skip_linear", mutates_args=())
def _skip_linear(
    values: Tensor, metadata: Tensor, weight: Tensor, format: str, bias: Tensor | None
) -> Tensor:
    parsed = _checked_skip(values, metadata, weight, format, bias)
    checks.check_packed(values, metadata, values.element_size())
    checks.check_dense(weight=weight, bias=bias)
    values, weight, bias = values.detach(), weight.detach(), _vector(bias)
    if not dispatch.serves(values):
        return multiply_on_cpu(values, metadata, weight.T.contiguous(), parsed, bias=bias)
    out = values.new_empty((1, weight.shape[1]))
    dispatch.module("products.skip_gemv").launch(values, metadata, weight, parsed, out, bias=bias)
    return out


@_skip_linear.register_fake
def _(values: Tensor, metadata: Tensor, weight: Tensor, format: str, bias: Tensor | None) -> Tensor:
    _checked_skip(values, metadata, weight, format, bias)
    return values.new_empty((1, weight.shape[1]))


def _checked_skip(
    values: Tensor, metadata: Tensor, weight: Tensor, format: str, bias: Tensor | None
) -> SparseFormat:
    """Refuse more than one token, and a weight [K, O] and bias [O] that do not fit it."""
    if values.ndim != 2 or values.shape[0] != 1:
        raise KernelError(
            f"activations have {len(values)} tokens: expected one; activations_linear takes any number"
        )
    checks.check_contiguous(weight)
    return checks.checked_product(values, metadata, weight.T, format, bias=bias)


def prune_on_cpu(
    x: Tensor, format: SparseFormat, shift: str, constant: float, channels: Tensor | None,
    vector: Tensor | None, variance: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Prune tokens [T, K], T at least 1: values, metadata, eta [T], v [T]."""
    eta = x.new_full((len(x),), constant, dtype=torch.float32)
    if shift == "mean":
        eta = x.mean(dim=1, dtype=torch.float32)
    elif shift == "median":
        eta = x.float().median(dim=1).values
    moved = stored = x
    if shift != "none":
        moved = x.float() - (eta[:, None] if channels is None else channels)
        stored = moved.to(x.dtype)
    keys = moved
    if shift != "none" or vector is not None:
        keys = moved.float() if vector is None else moved.float() * vector
        keys = keys.masked_fill(keys.isnan(), torch.nan)
    mask = nmsim.prune(as_array(keys), format.pattern, bit_order=True)
    packed = cpu.compress(as_array(stored), format, mask=mask, threads=torch.get_num_threads())
    v = torch.ones_like(eta)
    if variance:
        kept = moved.float().where(torch.from_numpy(mask), 0)
        v = (moved.float().var(dim=1) / kept.var(dim=1).clamp(min=LEAST_VARIANCE)).sqrt()
    return as_tensor(packed.values), as_tensor(packed.metadata), eta, v


def multiply_on_cpu(
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    format: SparseFormat,
    *,
    v: Tensor | None = None,
    eta: Tensor | None = None,
    row_sums: Tensor | None = None,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Decompress, multiply by torch in float32, and round once: [T, O]."""
    packed = as_sparse(values, metadata, format, weight.shape[1])
    y = as_tensor(cpu.decompress(packed, threads=torch.get_num_threads())).float() @ weight.float().T
    if v is not None:
        y *= v[:, None]
    if eta is not None and row_sums is not None:
        y += torch.outer(eta, row_sums)
    if scale is not None:
        y *= 1 + scale
    if bias is not None:
        y += bias
    return y.to(values.dtype)


def _checked_activations(activations: NMActivations) -> NMActivations:
    if not isinstance(activations, NMActivations):
        raise KernelError(
            f"activations are a {type(activations).__name__}: expected NMActivations, as prune_activations makes them"
        )
    return activations


def _vector(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.detach().float().contiguous()


def _empty(x: Tensor, format: SparseFormat) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make room for what is stored of tokens x [T, K]."""
    eta, v = (x.new_empty((x.shape[0],), dtype=torch.float32) for _ in range(2))
    return *empty_rows(x, format), eta, v
