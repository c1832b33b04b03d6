"""Recording what the linear layers of a torch model are given: the activations that `nmsim quality --activations` reads."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nmsim.errors import NmsimError, brief
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
def recorded_inputs(model: nn.Module, tokens: int = 256, *, tokens_per_call: int = 64) -> Iterator[Inputs]:
    """Record tokens on their way into every `nn.Linear` of a model, while it runs inside the `with` block.

    Parameters
    ----------
    model : nn.Module
        Left as it was afterwards.
    tokens : int
        Recorded of each layer; calls after that are not looked at.
    tokens_per_call : int
        At most so many of one call, evenly spread over batch and sequence, so that several texts have a part.

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
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if not layers:
        raise NmsimError(f"model {type(model).__name__}: no nn.Linear in it, expected at least one")
    taken: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    inputs: Inputs = {}
    with contextlib.ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(_recorder(taken[name], tokens, tokens_per_call))
            hooks.callback(hook.remove)
        yield inputs
    inputs |= {f"{name}.weight".removeprefix("."): torch.cat(parts) for name, parts in taken.items() if parts}


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
