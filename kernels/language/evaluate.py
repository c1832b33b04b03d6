"""Losses of a language model in one configuration, window by window.

The dense model runs once, and the outputs of its blocks are kept. A configuration changes nothing before its first pruned
block: the blocks before it return what was kept. So a change of one late layer costs a part of a pass, and no digit.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.language.model import LanguageModel
from nmsim.errors import NmsimError, brief
from nmsim.mitigation.rewrite import Selected
from nmsim.quality.apply import TokenPruner, pruned_weight
from nmsim.quality.configuration import Configuration
from nmsim.quality.layer import Calibration
from nmsim.support.lazy import explained
from nmsim.units import ceil_div

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise explained(error, __name__, {"torch": "nmsim[llm]"}) from error

BATCH_TOKENS = 1024
"""Tokens of one call of the model, unless one window has more."""
KEPT_BYTES = 1 << 30
"""Outputs of blocks that are kept. A model that needs more runs from its first block each time."""

Floats = NDArray[np.float32]


class LanguageEvaluator:
    """Prunes a model, measures its loss, and leaves it as it was.

    Parameters
    ----------
    model : LanguageModel
    ids : int64 tensor [tokens]
        The text. Calibration windows are its first, evaluation windows follow them.
    window_tokens : int
        Tokens of a window, at least two.
    calibration_tokens : int
        Of the start of the text, rounded up to whole windows. Parameters are fitted to the inputs that layers of the dense
        model get from them.
    threads : int, optional
        Of torch. Torch's own choice if absent.

    Raises
    ------
    NmsimError
        A window of fewer than two tokens, or no calibration token.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Tensor,
        *,
        window_tokens: int,
        calibration_tokens: int,
        threads: int | None = None,
    ) -> None:
        for name, count, least in (
            ("window_tokens", window_tokens, 2),
            ("calibration_tokens", calibration_tokens, 1),
        ):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise NmsimError(f"{name}={brief(count)}: expected a whole number of at least {least}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = model
        self.window_tokens = window_tokens
        self.calibration_windows = ceil_div(calibration_tokens, window_tokens)
        self._windows = ids[: len(ids) // window_tokens * window_tokens].reshape(-1, window_tokens)
        self._calibration: dict[str, Calibration] | None = None
        self._kept: list[list[Any]] = []
        """Of each batch of the dense model, the outputs of its blocks."""
        self._dense: list[float] = []

    @property
    def first_window_token(self) -> int:
        """Place of the first evaluation token in the text."""
        return self.calibration_windows * self.window_tokens

    def losses(self, configuration: Configuration, *, windows: int) -> list[float]:
        """Measure the loss of each of the first windows, in nats per predicted token.

        Parameters
        ----------
        configuration : Configuration
        windows : int

        Raises
        ------
        NmsimError
            More windows than the text has, or a way that a layer does not take. The error names the layer.
        """
        have = len(self._windows) - self.calibration_windows
        if isinstance(windows, bool) or not isinstance(windows, int) or not 1 <= windows <= have:
            raise NmsimError(
                f"windows={brief(windows)}: expected 1 to {max(have, 0)}; the text has {len(self._windows)} windows of "
                f"{self.window_tokens} tokens, {self.calibration_windows} of them for calibration"
            )
        with torch.inference_mode():
            self._run_dense(windows)
            if configuration.is_dense:
                return self._dense[:windows]
            names = configuration.names(self.model.layers)
            with self._changed(configuration, names):
                return self._run(windows, self._first_block(names))

    def calibration(self) -> dict[str, Calibration]:
        """Inputs that each layer of the dense model gets from the calibration windows; recorded once."""
        if self._calibration is None:
            with torch.inference_mode():
                self._calibration = self._record()
        return self._calibration

    def _batches(self, windows: int) -> Iterator[tuple[int, Tensor]]:
        """Windows that run together, each batch with its number. Batches do not depend on how many windows are asked for."""
        size = max(1, BATCH_TOKENS // self.window_tokens)
        chosen = self._windows[self.calibration_windows :]
        for number, first in enumerate(range(0, windows, size)):
            yield number, chosen[first : min(first + size, windows)]

    def _run_dense(self, windows: int) -> None:
        """Measure the dense losses, and keep the outputs of the blocks if memory allows."""
        if len(self._dense) >= windows:
            return
        self._kept, self._dense = [], []
        size = 0
        for _, batch in self._batches(windows):
            outputs: list[Any] = []
            with contextlib.ExitStack() as hooks:
                for block in self.model.blocks if size <= KEPT_BYTES else ():
                    hooks.callback(block.register_forward_hook(_keeper(outputs)).remove)
                self._dense += self._losses_of(batch)
            size += sum(_bytes(output) for output in outputs)
            self._kept.append(outputs)
        if size > KEPT_BYTES:
            self._kept = [[] for _ in self._kept]

    def _run(self, windows: int, first_block: int) -> list[float]:
        found: list[float] = []
        for number, batch in self._batches(windows):
            kept = self._kept[number][:first_block]
            with _skipping(list(self.model.blocks), kept, len(batch)):
                found += self._losses_of(batch)
        return found

    def _losses_of(self, batch: Tensor) -> list[float]:
        logits = self.model.module(input_ids=batch, use_cache=False).logits.float()
        each = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
        )
        return [float(loss) for loss in each.view(len(batch), -1).double().mean(1)]

    def _first_block(self, names: list[str]) -> int:
        """Number of the first block with a layer that is changed; 0 if one lies outside of all blocks."""
        layers = {id(self.model.layers[name]) for name in names}
        inside = [{id(part) for part in block.modules()} & layers for block in self.model.blocks]
        if len(set().union(*inside)) < len(layers):
            return 0
        return next(number for number, found in enumerate(inside) if found)

    def _record(self) -> dict[str, Calibration]:
        """Run the dense model on the calibration windows. Layers that get one tensor, such as q, k and v, share it."""
        taken: dict[str, list[Tensor]] = {name: [] for name in self.model.layers}
        with contextlib.ExitStack() as hooks:
            for name, layer in self.model.layers.items():
                hooks.callback(layer.register_forward_pre_hook(_recorder(taken[name])).remove)
            size = max(1, BATCH_TOKENS // self.window_tokens)
            for batch in torch.split(self._windows[: self.calibration_windows], size):
                self.model.module(input_ids=batch, use_cache=False)
        shared: dict[tuple[int, ...], Calibration] = {}
        found: dict[str, Calibration] = {}
        for name, parts in taken.items():
            if not parts:
                raise NmsimError(f"{self.model.name}: layer {brief(name)} is not called, expected each to be")
            place = tuple(part.data_ptr() for part in parts)
            if place not in shared:
                shared[place] = Calibration(torch.cat(parts).numpy())
            found[name] = shared[place]
        return found

    @contextlib.contextmanager
    def _changed(self, configuration: Configuration, names: list[str]) -> Iterator[None]:
        """Prune the layers within the `with` block."""
        calibration = self.calibration()
        last = _LastSelection()
        with contextlib.ExitStack() as changes:
            for name in names:
                layer = self.model.layers[name]
                try:
                    forward = _changed_forward(
                        configuration, layer, calibration[name], last, self.window_tokens
                    )
                except NmsimError as error:
                    raise error.within(f"layer {name}") from error
                changes.enter_context(_replaced(layer, forward))
            yield


@dataclass
class _LastSelection:
    """What was selected last. Layers that are given the same tokens, such as q, k and v, select once."""

    x: Tensor | None = None
    key: object = None
    selected: list[Selected] = field(default_factory=list)


Forward = Callable[[Tensor], Tensor]


def _changed_forward(
    configuration: Configuration,
    layer: nn.Linear,
    calibration: Calibration,
    last: _LastSelection,
    window_tokens: int,
) -> Forward:
    """Fit what a configuration needs of one layer."""
    weight: Floats = layer.weight.detach().numpy()
    bias: Tensor | None = layer.bias
    if configuration.weights is not None:
        changed = pruned_weight(weight, configuration.weights, calibration)
        weight = changed.weight
        if changed.bias is not None:
            added = torch.from_numpy(changed.bias).float()
            bias = added if bias is None else bias + added
    if configuration.activations is None:
        whole = torch.from_numpy(weight)
        return lambda x: functional.linear(x, whole, bias)
    pruner = TokenPruner(configuration.activations, weight, calibration)
    factors = torch.from_numpy(pruner.weight)

    def of_tokens(x: Tensor) -> Tensor:
        key = pruner.shares_selection
        if last.x is not x or last.key != key or key is None:
            # A choice that depends on other tokens sees those of its own window, whatever runs beside it.
            rows = window_tokens if pruner.looks_across_tokens else x[..., 0].numel()
            parts = [pruner.select(part.numpy()) for part in torch.split(x.flatten(0, -2), rows)]
            # The tensor is held as well, so that its identity stays its own.
            last.x, last.key, last.selected = x, key, parts
        y = torch.cat([product(one) for one in last.selected]).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias

    def product(selected: Selected) -> Tensor:
        found = functional.linear(torch.from_numpy(selected.values), factors)
        return torch.from_numpy(pruner.finish(found.numpy(), selected))

    return of_tokens


@contextlib.contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]


def _recorder(to: list[Tensor]) -> Callable[..., None]:
    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        to.append(inputs[0].flatten(0, -2))

    return record


def _keeper(to: list[Any]) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        to.append(output)

    return keep


def _bytes(output: Any) -> int:
    parts = (output,) if isinstance(output, Tensor) else output
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))


@contextlib.contextmanager
def _skipping(blocks: list[nn.Module], kept: list[Any], windows: int) -> Iterator[None]:
    """Have the first blocks return what they returned in the dense model."""
    with contextlib.ExitStack() as changes:
        for block, output in zip(blocks, kept, strict=False):
            part = _first(output, windows)
            changes.enter_context(_replaced(block, lambda *_arguments, _part=part, **_options: _part))
        yield


def _first(output: Any, windows: int) -> Any:
    """The part of a block's output, a tensor or a tuple of some, that belongs to the first windows of a batch."""
    if isinstance(output, Tensor):
        return output[:windows]
    return tuple(_first(part, windows) if isinstance(part, Tensor) else part for part in output)
