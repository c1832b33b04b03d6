"""N:M activations for torch: prune and pack tokens online, and multiply them with a dense weight.

Importing this module registers `nmsim::prune_activations` and `nmsim::activations_linear`. On CUDA tensors they run the
Triton kernels of `kernels.gpu`, on others nmsim and torch on the CPU. Neither has gradients.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kernels.cpu import KernelError
from kernels.ops import triton_kernels
from kernels.ops.activation_checks import check_product, check_tokens, kind_of_shift
from kernels.ops.activations_cpu import multiply_on_cpu, prune_on_cpu
from kernels.stored import alignment
from kernels.stored.nm_weight import row_lengths
from kernels.stored.rows import checked_pattern
from kernels.stored.tensors import checked_tensor, checked_type
from nmsim.pattern import Pattern

__all__ = ["NMActivations", "activations_linear", "prune_activations", "row_sums"]


class NMActivations(NamedTuple):
    """Pruned tokens X[..., K], T of them, as `prune_activations` makes them.

    Parameters
    ----------
    values : Tensor [T, G * n] of float32, float16 or bfloat16
        Stored values x_ij - eta, each row filled with zeros to whole steps, as `docs/explanation/cpu-kernels.md` says.
    metadata : uint8 Tensor [T, bytes of a row]
    eta : float32 Tensor [T] or None
        What was subtracted from each token; none where nothing was, or a vector.
    v : float32 Tensor [T] or None
        By what the products of each token are to be scaled.
    pattern, encoding : str
    shape : tuple of int
        Of X.
    """

    values: Tensor
    metadata: Tensor
    eta: Tensor | None
    v: Tensor | None
    pattern: str
    encoding: str
    shape: tuple[int, ...]


def prune_activations(
    x: Tensor,
    pattern: Pattern | str,
    encoding: str = "bitmask",
    *,
    shift: Literal["mean", "median"] | float | Tensor | None = None,
    vector: Tensor | None = None,
    variance: bool = False,
) -> NMActivations:
    """Keep the N best of every M consecutive elements of each token, and pack them.

    Eta is subtracted in float32, the score is the magnitude of the float32 difference, and the difference is rounded once, to
    the type of x, when it is stored. Of equal scores the lower index wins, all NaN are alike and above infinity. Without
    shift and vector nothing is computed: magnitudes are compared by stored bits and values stored bit for bit, as
    `nmsim.prune` and `ops.pack` do. Of K in features that M does not divide, the tail of t keeps min(N, t).

    Parameters
    ----------
    x : Tensor [..., K] of float32, float16 or bfloat16
        In any memory order.
    pattern : Pattern or str
        M at most 32.
    encoding : {"bitmask", "index", "combinatorial"}
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
        A tensor of another type, shape or device, a pattern or encoding without kernels, a variance of a single in feature,
        or a CUDA tensor where Triton is not installed.

    Source
    ------
    Formulas, linear_act_sp.py of the code of arXiv 2509.22166; `nmsim.mitigation.golden` in float64.

    Examples
    --------
    >>> kept = prune_activations(torch.tensor([[1.0, 5.0, 3.0, 3.0]]), "2:4", shift="mean")
    >>> kept.values[0, :2].tolist(), kept.metadata.tolist(), kept.eta.tolist()
    ([-2.0, 2.0], [[51, 51]], [3.0])
    """
    checked_type("x", x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise KernelError(f"x has shape {tuple(x.shape)}: expected [..., K] with K at least 1")
    text = pattern if isinstance(pattern, str) else str(checked_pattern(pattern))
    how, constant, channels = kind_of_shift(shift)
    if vector is not None:
        checked_type("vector", vector)
    tokens = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    values, metadata, eta, v = torch.ops.nmsim.prune_activations(
        tokens, text, encoding, how, constant, channels, vector, variance
    )
    of_token = how not in ("none", "vector")
    return NMActivations(
        values, metadata, eta if of_token else None, v if variance else None, text, encoding, tuple(x.shape)
    )


def activations_linear(
    activations: NMActivations,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
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
        Of the weight, r = W 1, as `row_sums` makes them; looked at where the tokens have an eta.

    Returns
    -------
    Tensor [..., O] of the type of the values

    Raises
    ------
    KernelError
        Operands of another type, shape or device, or no row sums where they are needed.

    Examples
    --------
    >>> weight = torch.eye(4)
    >>> kept = prune_activations(torch.tensor([1.0, 5.0, 3.0, 3.0]), "2:4", shift="mean")
    >>> activations_linear(kept, weight, row_sums=row_sums(weight)).tolist()
    [1.0, 5.0, 3.0, 3.0]
    """
    if not isinstance(activations, NMActivations):
        raise KernelError(
            f"activations are a {type(activations).__name__}: expected NMActivations, as prune_activations makes them"
        )
    if activations.eta is not None and row_sums is None:
        raise KernelError(
            "row_sums is missing: the tokens were shifted, expected row_sums(weight) to shift their products back"
        )
    checked_type("weight", weight)
    if weight.ndim == 2 and weight.shape[1] != activations.shape[-1]:
        raise KernelError(
            f"weight has shape {tuple(weight.shape)}: expected [O, {activations.shape[-1]}], K of the activations"
        )
    y: Tensor = torch.ops.nmsim.activations_linear(
        activations.values, activations.metadata, weight, activations.pattern, activations.encoding,
        activations.v, activations.eta, None if activations.eta is None else row_sums, scale, bias,
    )  # fmt: skip
    return y.reshape(*activations.shape[:-1], weight.shape[0])


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
    x: Tensor,
    pattern: str,
    encoding: str,
    shift: str,
    constant: float,
    channels: Tensor | None,
    vector: Tensor | None,
    variance: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parsed = check_tokens(x, pattern, encoding, channels, vector, variance)
    alignment.check_dense(x=x, shift=channels, vector=vector)
    f32 = _vector(channels), _vector(vector)
    out = _empty(x, parsed, encoding)
    if len(x) == 0:
        return out
    if not triton_kernels.serves(x):
        return prune_on_cpu(x.detach(), parsed, encoding, shift, constant, *f32, variance)
    about = {"shift": shift, "constant": constant, "channels": f32[0], "vector": f32[1], "variance": variance}
    triton_kernels.module("prune").launch(x.detach().contiguous(), parsed, encoding, out, **about)
    return out


@_prune_activations.register_fake
def _(
    x: Tensor,
    pattern: str,
    encoding: str,
    shift: str,
    constant: float,
    channels: Tensor | None,
    vector: Tensor | None,
    variance: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty(x, check_tokens(x, pattern, encoding, channels, vector, variance), encoding)


@torch.library.custom_op("nmsim::activations_linear", mutates_args=())
def _activations_linear(
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    pattern: str,
    encoding: str,
    v: Tensor | None,
    eta: Tensor | None,
    row_sums: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    of_tokens, of_outputs = {"v": v, "eta": eta}, {"row_sums": row_sums, "scale": scale, "bias": bias}
    parsed = check_product(values, metadata, weight, pattern, encoding, of_tokens, of_outputs)
    alignment.check_packed(values, metadata, alignment.bytes_of_values(values, parsed))
    alignment.check_dense(weight=weight, **of_tokens, **of_outputs)
    epilogue = {name: _vector(part) for name, part in (of_tokens | of_outputs).items()}
    values, weight = values.detach(), weight.detach()
    y = values.new_empty(len(values), len(weight))
    if len(values) == 0:
        return y
    if not triton_kernels.serves(values):
        return multiply_on_cpu(values, metadata, weight, parsed, encoding, **epilogue)
    triton_kernels.module("sparse_activations").launch(
        values, metadata, weight, parsed, encoding, y, **epilogue
    )
    return y


@_activations_linear.register_fake
def _(
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    pattern: str,
    encoding: str,
    v: Tensor | None,
    eta: Tensor | None,
    row_sums: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    of_tokens, of_outputs = {"v": v, "eta": eta}, {"row_sums": row_sums, "scale": scale, "bias": bias}
    check_product(values, metadata, weight, pattern, encoding, of_tokens, of_outputs)
    return values.new_empty((values.shape[0], weight.shape[0]))


def _vector(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.detach().float().contiguous()


def _empty(x: Tensor, pattern: Pattern, encoding: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make room for what is stored of tokens x [T, K]."""
    values_columns, metadata_columns = row_lengths(pattern, encoding, x.shape[1])
    tokens = x.shape[0]
    return (
        x.new_empty((tokens, values_columns)),
        x.new_empty((tokens, metadata_columns), dtype=torch.uint8),
        x.new_empty((tokens,), dtype=torch.float32),
        x.new_empty((tokens,), dtype=torch.float32),
    )
