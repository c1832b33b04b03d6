"""Linear layers whose stored values have 8 bits, and models of such layers.

Importing this module registers `nmsim::quantized_linear`: the decode kernel for as few tokens as it takes on a CUDA device.
For more tokens, and on a CPU, values become packed rows anew for each product, which is slow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from kernels.ops import checks, dispatch
from kernels.ops.decode import check_memory, checked_weights, decode_linear, for_decode
from kernels.ops.layer import NMLinear, packed_layers
from kernels.ops.stacked import StackedPart
from kernels.ops.weights import decompress
from kernels.stored.errors import KernelError
from kernels.stored.rows import kernel_format
from kernels.stored.scaled import VALUES, checked_type_name
from kernels.stored.shuffled import MOST_TOKENS, ShuffledWeight, check_order, packed_parts, unshuffle
from nmsim.errors import NmsimError, brief

STORED = ("values", "metadata", "scales")
EXTRA_STATE = "_extra_state"


class QuantizedLinear(nn.Module):
    """A linear layer whose weights are stored N in M with values of 8 bits and scales: y = x W^T + b. Made by `quantize_`.

    Weights are frozen: gradients reach x and the bias. `half()`, `float()` and `to(dtype)` change the bias and leave the
    weights as they are. x may have any of the three types. The result has the same.

    Parameters
    ----------
    weights : ShuffledWeight
        With scales, as `ops.for_decode(..., values="e4m3")` makes it. Taken over, not copied.
    bias : Parameter [N], optional
        Taken over, not copied.

    Raises
    ------
    KernelError
        Weights without scales.

    Examples
    --------
    >>> from kernels.ops import compress
    >>> weights = for_decode(compress(torch.randn(32, 64), "8:16"), values="e4m3")
    >>> QuantizedLinear(weights)
    QuantizedLinear(in_features=64, out_features=32, bias=False, format=8:16/index, values=e4m3, block=None)
    """

    values: Tensor
    metadata: Tensor
    scales: Tensor
    bias: nn.Parameter | None

    def __init__(self, weights: ShuffledWeight, *, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        if not isinstance(weights, ShuffledWeight) or weights.scales is None:
            raise KernelError(
                f"weights are {brief(weights)}: expected a ShuffledWeight with scales, as for_decode(..., values='e4m3') "
                "makes it"
            )
        self.out_features, self.in_features = weights.shape
        self.block = weights.block
        self._format_text = str(weights.format)
        for name in STORED:
            self.register_buffer(name, getattr(weights, name))
        self.bias = bias

    @property
    def weights(self) -> ShuffledWeight:
        """The stored weights, on the memory of this layer."""
        shape = (self.out_features, self.in_features)
        return ShuffledWeight(
            self.values, self.metadata, kernel_format(self._format_text), shape, self.scales, self.block
        )

    @property
    def weight(self) -> Tensor:
        """The weight [N, K] that is multiplied with, float32, made anew each time it is asked for."""
        return decompress(unshuffle(self.weights))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: x [..., K] -> [..., N]."""
        y: Tensor = torch.ops.nmsim.quantized_linear(
            x, self.values, self.metadata, self.scales, self.bias, self._format_text, self.out_features,
            self.in_features, self.block,
        )  # fmt: skip
        return y

    def extra_repr(self) -> str:
        """Say what a printed model shows of this layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format={kernel_format(self._format_text).short}, values={self._type_name()}, block={self.block}"
        )

    def get_extra_state(self) -> Tensor:
        """What is stored, as uint8 text."""
        return torch.tensor(list(self._description().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Take what was compared before."""

    def _type_name(self) -> str:
        return next(name for name, dtype in VALUES.items() if dtype == self.values.dtype)

    def _description(self) -> str:
        about = f"{kernel_format(self._format_text).short} {self.out_features}x{self.in_features}"
        return f"{about} {self._type_name()} block={self.block}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Load, after what is saved is known to be of this format, shape and type: torch would convert it."""
        state = state_dict.get(prefix + EXTRA_STATE)
        if state is not None:
            found = (
                bytes(state.tolist()).decode(errors="replace") if isinstance(state, Tensor) else repr(state)
            )
            if found != self._description():
                name = prefix.rstrip(".") or "QuantizedLinear"
                error_msgs.append(
                    f"{name}: saved weights are {brief(found)}: this layer expects {brief(self._description())}"
                )
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move what is stored, and convert nothing of it: to 16 bits it would no longer be what its scales belong to."""
        stored = {name: self._buffers.pop(name) for name in STORED}
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            device = fn(torch.empty(0, device=self._device_of(stored))).device
            for name, part in stored.items():
                assert part is not None
                stored[name] = torch.empty_like(part, device=device) if part.is_meta else part.to(device)
        finally:
            self._buffers.update(stored)
        return self

    @staticmethod
    def _device_of(stored: dict[str, Tensor | None]) -> torch.device:
        values = stored["values"]
        assert values is not None
        return values.device


@torch.library.custom_op("nmsim::quantized_linear", mutates_args=())
def _quantized_linear(
    x: Tensor, values: Tensor, metadata: Tensor, scales: Tensor, bias: Tensor | None, format: str,
    out_features: int, in_features: int, block: int | None = None,
) -> Tensor:  # fmt: skip
    """Take the decode kernel for as few tokens as it takes on a CUDA device. The choice is made when it runs."""
    weights = _checked(x, values, metadata, scales, bias, format, out_features, in_features, block)
    x, bias = x.detach(), None if bias is None else bias.detach()
    if dispatch.serves(x) and 1 <= x.shape[:-1].numel() <= MOST_TOKENS:
        return decode_linear(x, weights, bias=bias)
    check_memory(weights, x=x, bias=bias)
    rows, codes = packed_parts(weights)
    if dispatch.serves(x):
        rows, bias = rows.to(x.dtype), None if bias is None else bias.to(x.dtype)
    y: Tensor = torch.ops.nmsim.sparse_linear(x, rows, codes, bias, format, in_features)
    return y


@_quantized_linear.register_fake
def _(
    x: Tensor, values: Tensor, metadata: Tensor, scales: Tensor, bias: Tensor | None, format: str,
    out_features: int, in_features: int, block: int | None = None,
) -> Tensor:  # fmt: skip
    _checked(x, values, metadata, scales, bias, format, out_features, in_features, block)
    return x.new_empty((*x.shape[:-1], out_features))


def _checked(
    x: Tensor, values: Tensor, metadata: Tensor, scales: Tensor, bias: Tensor | None, format: str,
    out_features: int, in_features: int, block: int | None,
) -> ShuffledWeight:  # fmt: skip
    checks.check_x(x, in_features)
    for name, part in (("values", values), ("metadata", metadata), ("scales", scales)):
        if part.device != x.device:
            raise KernelError(f"x is on {x.device}, {name} on {part.device}: expected one device")
    checks.check_bias(bias, out_features, x.device)
    return checked_weights(values, metadata, format, out_features, in_features, scales, block)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *stored, bias, format, rows, k, block = inputs
    ctx.save_for_backward(*stored)
    ctx.about = format, rows, k, block
    ctx.x_dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_x = of_bias = None
    if ctx.needs_input_grad[0]:
        values, metadata, scales = ctx.saved_tensors
        format, rows, k, block = ctx.about
        weights = ShuffledWeight(values, metadata, kernel_format(format), (rows, k), scales, block)
        dense = torch.ops.nmsim.unpack(*packed_parts(weights), format, k)
        of_x = (grad.float() @ dense).to(ctx.x_dtype)
    if ctx.needs_input_grad[4]:
        of_bias = grad.float().reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype)
    return of_x, None, None, None, of_bias, None, None, None, None


_quantized_linear.register_autograd(_gradients, setup_context=_remember)


@dataclass(frozen=True)
class QuantizeReport:
    """What `quantize_` did.

    Parameters
    ----------
    layers : tuple of str
        Names of the layers that have values of 8 bits now; a layer under two names stands under both.
    before_bytes, after_bytes : int
        Weights of these layers; a layer under two names counts once.
    """

    layers: tuple[str, ...]
    before_bytes: int
    after_bytes: int


def quantize_(model: nn.Module, *, values: str = "e4m3", block: int | None = None) -> QuantizeReport:
    """Put a `QuantizedLinear` in place of every `NMLinear` of a model. Everything or nothing.

    Layers that `stack_` made are replaced too, and their parts go on to use them. Bias parameters stay the same objects. Hooks
    of the layers are lost.

    Parameters
    ----------
    model : nn.Module
        After `sparsify_`. Not itself an `NMLinear`.
    values : {"e4m3", "int8"}
    block : int, optional
        Elements of K that share a scale, such as 128. One scale per row if absent.

    Returns
    -------
    QuantizeReport

    Raises
    ------
    KernelError
        A layer without such an order, or with a NaN or an infinity, named; no `NMLinear`; or another argument.

    Examples
    --------
    >>> from kernels.ops import sparsify_
    >>> model = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
    >>> _ = sparsify_(model, "8:16/bitmask")
    >>> quantize_(model)
    QuantizeReport(layers=('0',), before_bytes=17408, after_bytes=5632)
    """
    if not isinstance(model, nn.Module) or isinstance(model, NMLinear):
        raise KernelError(f"model is a {type(model).__name__}: expected a module that holds NMLinear layers")
    checked_type_name(values)
    names = packed_layers(model)
    # A NaN may be in the last layer: all are made before the first is replaced.
    made: dict[nn.Module, QuantizedLinear] = {}
    for name, layer in names:
        if layer not in made:
            try:
                check_order(layer.format, torch.float16)
                stored = for_decode(layer.weights, values=values, block=block)
            except NmsimError as error:
                raise error.within(name) from error
            made[layer] = QuantizedLinear(stored, bias=layer.bias).train(layer.training)
    before_bytes = sum(layer.values.nbytes + layer.metadata.nbytes for layer in {layer for _, layer in names})
    for name, layer in names:
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._modules[child] = made[layer]
    for module in model.modules():
        if isinstance(module, StackedPart):
            module.follow(made)
    return QuantizeReport(
        layers=tuple(name for name, _ in names),
        before_bytes=before_bytes,
        after_bytes=sum(
            part.weights.values_bytes + part.weights.metadata_bytes + part.weights.scales_bytes
            for part in made.values()
        ),
    )
