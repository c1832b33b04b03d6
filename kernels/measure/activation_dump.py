"""Recording what the linear layers of a torch model are given: the activations that `nmsim quality --activations` reads."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import NmsimError, brief, brief_names
from nmsim.support.lazy import explained

try:
    import torch
    from safetensors.torch import save_file
    from torch import nn
except ModuleNotFoundError as error:
    raise explained(error, __name__, {"torch": "nmsim[gpu]"}) from error

Inputs = dict[str, torch.Tensor]
"""Name of a weight -> tokens [tokens, K] that its layer was given."""


@contextlib.contextmanager
def recorded_inputs(
    model: nn.Module, tokens: int = 256, *, tokens_per_call: int = 64, layers: Collection[str] | None = None
) -> Iterator[Inputs]:
    """Record tokens on their way into every `nn.Linear` of a model, while it runs inside the `with` block.

    Parameters
    ----------
    model : nn.Module
        Left as it was afterwards.
    tokens : int
        Recorded of each layer; calls after that are not looked at.
    tokens_per_call : int
        At most so many of one call, evenly spread over batch and sequence, so that several texts have a part.
    layers : collection of str, optional
        Names of the layers that are recorded; all if absent.

    Yields
    ------
    dict of str to tensor [tokens, K]
        By the name of the layer's weight, in the dtype of the activations, in the memory of the host. Filled when the block
        ends. A layer that was not called is missing.

    Raises
    ------
    NmsimError
        Not a positive number of tokens, or a model without a linear layer.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> with recorded_inputs(model, tokens=6) as inputs:
    ...     _ = model(torch.randn(2, 5, 8))
    >>> {name: tuple(x.shape) for name, x in inputs.items()}
    {'0.weight': (6, 8), '2.weight': (6, 4)}
    """
    for name, count in (("tokens", tokens), ("tokens_per_call", tokens_per_call)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise NmsimError(f"{name}={brief(count)}: expected a positive int")
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if not linear:
        raise NmsimError(f"model {type(model).__name__}: no nn.Linear in it, expected at least one")
    if unknown := [name for name in layers or () if name not in linear]:
        raise NmsimError(
            f"model {type(model).__name__}: {brief_names(unknown)}: no nn.Linear of that name, expected some of "
            f"{brief_names(list(linear))}"
        )
    chosen = {name: layer for name, layer in linear.items() if layers is None or name in layers}
    taken: dict[str, list[torch.Tensor]] = {name: [] for name in chosen}
    inputs: Inputs = {}
    with contextlib.ExitStack() as hooks:
        for name, layer in chosen.items():
            hook = layer.register_forward_pre_hook(_recorder(taken[name], tokens, tokens_per_call))
            hooks.callback(hook.remove)
        yield inputs
    inputs |= {f"{name}.weight".removeprefix("."): torch.cat(parts) for name, parts in taken.items() if parts}


def run_windows(
    model: nn.Module, windows: torch.Tensor, *, tokens: int, layers: Collection[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Run a language model on windows of tokens, one by one, and record what its linear layers are given.

    Parameters
    ----------
    model : nn.Module
        Takes `input_ids` [batch, tokens].
    windows : tensor of int64 [windows, tokens]
        Of `kernels.language.texts`.
    tokens : int
        Recorded of each layer: all tokens of each window, or evenly spread ones of the last window that is needed.
    layers : collection of str, optional
        As for `recorded_inputs`.

    Returns
    -------
    dict of str to float32 array [tokens, K]
        By the name of the layer's weight.

    Raises
    ------
    NmsimError
        Fewer tokens than are to be recorded, or as `recorded_inputs`.

    Examples
    --------
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embedding, self.up = nn.Embedding(8, 4), nn.Linear(4, 2)
    ...     def forward(self, input_ids):
    ...         return self.up(self.embedding(input_ids))
    >>> found = run_windows(Model(), torch.arange(6).reshape(2, 3), tokens=5)
    >>> {name: x.shape for name, x in found.items()}
    {'up.weight': (5, 4)}
    """
    count, length = windows.shape
    if count * length < tokens:
        raise NmsimError(
            f"windows: {count} of {length} tokens, expected at least {tokens} tokens, which are recorded of each layer"
        )
    device = next(model.parameters()).device
    # All tokens of a window: the first one, which many models give very large values, has the weight that it has in use.
    with (
        torch.inference_mode(),
        recorded_inputs(model, tokens, tokens_per_call=length, layers=layers) as inputs,
    ):
        for window in windows[: -(-tokens // length)]:
            model(input_ids=window[None].to(device))
    return {name: x.float().numpy() for name, x in inputs.items()}


def weights_of(layers: Mapping[str, nn.Linear]) -> dict[str, NDArray[np.float32]]:
    """Take the weights of linear layers as arrays [out, in], by the names that a checkpoint has for them.

    Arrays share the memory of the layers if these are in float32 on the host.

    Examples
    --------
    >>> [(name, x.shape) for name, x in weights_of({"up": nn.Linear(4, 2)}).items()]
    [('up.weight', (2, 4))]
    """
    return {f"{name}.weight": layer.weight.detach().float().cpu().numpy() for name, layer in layers.items()}


def save_inputs(inputs: Inputs, path: str | os.PathLike[str]) -> None:
    """Write recorded tokens as a safetensors file, a tensor a layer.

    Parameters
    ----------
    inputs : dict
        From `recorded_inputs`.
    path : path
        Replaced when it exists.

    Raises
    ------
    NmsimError
        Nothing was recorded.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "dump.safetensors"
    >>> save_inputs({"0.weight": torch.zeros(4, 8)}, path)
    >>> path.stat().st_size > 4 * 8 * 4
    True
    """
    if not inputs:
        raise NmsimError(
            f"{path}: nothing was recorded; run the model inside the with block, and save after it"
        )
    save_file(inputs, Path(path), metadata={"activations": "inputs of linear layers, [tokens, K]"})


def _recorder(taken: list[torch.Tensor], tokens: int, tokens_per_call: int):  # type: ignore[no-untyped-def]
    def record(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        missing = tokens - sum(len(part) for part in taken)
        if missing <= 0 or not arguments:
            return
        x = arguments[0].detach().reshape(-1, arguments[0].shape[-1])
        count = min(missing, tokens_per_call, len(x))
        # Whole numbers: torch.linspace in float32 would miss places of long calls.
        places = [place * len(x) // count for place in range(count)]
        taken.append(x[places].to("cpu", copy=True))

    return record
