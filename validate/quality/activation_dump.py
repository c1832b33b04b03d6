"""Tokens for the linear layers of a checkpoint: recorded in a safetensors file, or synthetic.

A recorded tensor is the input of a layer, named as its weight is, with or without `.weight`, or with `.input` in its place:
[tokens, K], or [batch, sequence, K].
"""

import contextlib
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nmsim import dtypes
from nmsim.errors import ContainerError, RowError, brief
from nmsim.files.safetensors import RawTensor, SafetensorsReader, TensorInfo
from nmsim.files.sharded import open_checkpoint
from nmsim.quality.layer import first_unusable, most_of

Floats = NDArray[np.float32]
MEAN, CHANNEL_SPREAD, OUTLIER_SHARE, OUTLIER_SCALES, TAIL_DEGREES = 0.1, 0.4, 0.004, (8.0, 30.0), 5.0
"""Of `llm-like` tokens. Chosen to have what is known of activations of language models, not fitted to any."""
SHOWN_NAMES = 5


class Tokens(NamedTuple):
    """Calibration tokens and those that are measured, each float32 [L, K]; no token is in both."""

    fit: Floats
    x: Floats


class Origin(NamedTuple):
    """Model and text that recorded tokens are of, each with its digest as in rows of losses; empty if nobody says it."""

    model: str = ""
    model_digest: str = ""
    text: str = ""
    text_digest: str = ""


class Source(Protocol):
    """Where tokens come from. `counts` are those of calibration and of evaluation."""

    description: str
    counts: tuple[int, int]
    origin: Origin

    def tokens(self, weight_name: str, in_features: int) -> Tokens:
        """Tokens of a layer, by the name of its weight."""
        ...

    def has(self, weight_name: str) -> bool:
        """Whether there are tokens of a layer."""
        ...

    def unmatched(self, weight_names: Sequence[str]) -> list[str]:
        """Tensors whose names fit none of the weights."""
        ...


def gaussian(rng: np.random.Generator, tokens: int, in_features: int) -> Floats:
    """Independent, of mean 0 and variance 1."""
    return rng.standard_normal((tokens, in_features), np.float32)


def laplace(rng: np.random.Generator, tokens: int, in_features: int) -> Floats:
    """Independent, of mean 0 and variance 1, with a sharper peak and heavier tails."""
    return rng.laplace(0.0, math.sqrt(0.5), (tokens, in_features)).astype(np.float32)


def llm_like(rng: np.random.Generator, tokens: int, in_features: int) -> Floats:
    """Heavy tails (Student t), in features of differing scale, a few of them 8 to 30 times larger, and a mean that is not 0.

    The same in features are large in every token, as in language models; by how much is chosen, not measured.
    """
    channels = np.exp(CHANNEL_SPREAD * rng.standard_normal(in_features))
    large = rng.choice(in_features, max(1, round(OUTLIER_SHARE * in_features)), replace=False)
    channels[large] *= rng.uniform(*OUTLIER_SCALES, len(large))
    means = MEAN + 0.3 * rng.standard_normal(in_features)
    drawn = rng.standard_t(TAIL_DEGREES, (tokens, in_features)) / math.sqrt(TAIL_DEGREES / (TAIL_DEGREES - 2))
    found: Floats = ((drawn + means) * channels).astype(np.float32)
    return found


KINDS: Mapping[str, Callable[[np.random.Generator, int, int], Floats]] = MappingProxyType(
    {"gaussian": gaussian, "laplace": laplace, "llm-like": llm_like}
)
"""Kinds of synthetic tokens."""


class Synthetic:
    """Tokens drawn at random, the same for the same seed, layer and numpy.

    Parameters
    ----------
    kind : str
        A key of `KINDS`.
    calibration_tokens, eval_tokens : int
    seed : int, 0 or more

    Raises
    ------
    RowError
        An unknown kind, or a number out of range.

    Examples
    --------
    >>> Synthetic("laplace", 4, 8).tokens("q.weight", 32).x.shape
    (8, 32)
    """

    def __init__(self, kind: str, calibration_tokens: int, eval_tokens: int, seed: int = 0) -> None:
        if kind not in KINDS:
            raise RowError(f"synthetic activations {brief(kind)}: expected one of {', '.join(KINDS)}")
        _refuse_few(calibration_tokens, eval_tokens)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise RowError(f"seed={brief(seed)}: expected an int of 0 or more")
        self.kind, self.seed = kind, seed
        self.counts, self.origin = (calibration_tokens, eval_tokens), Origin()
        self.description = f"synthetic {kind}"

    def has(self, weight_name: str) -> bool:
        """Always."""
        return True

    def unmatched(self, weight_names: Sequence[str]) -> list[str]:
        """None."""
        return []

    def tokens(self, weight_name: str, in_features: int) -> Tokens:
        """Draw the tokens of a layer."""
        rng = np.random.default_rng([self.seed, zlib.crc32(weight_name.encode())])
        drawn = KINDS[self.kind](rng, sum(self.counts), in_features)
        return Tokens(drawn[: self.counts[0]], drawn[self.counts[0] :])


class Dump:
    """Recorded tokens. Calibration takes the first of a layer, evaluation the last.

    Parameters
    ----------
    path : path
        As the user named it.
    files : sequence of SafetensorsReader
        Open.
    calibration_tokens, eval_tokens : int
    """

    def __init__(
        self, path: str | os.PathLike[str], files: Sequence[SafetensorsReader], calibration_tokens: int, eval_tokens: int
    ) -> None:  # fmt: skip
        _refuse_few(calibration_tokens, eval_tokens)
        self.path, self.counts = path, (calibration_tokens, eval_tokens)
        # A dump of other programs says nothing of its origin.
        self.origin = (
            Origin(**{key: files[0].metadata.get(key, "") for key in Origin._fields}) if files else Origin()
        )
        self.description = f"dump {os.path.basename(path)}"
        self._file_of = {name: file for file in files for name in file.tensors}

    def has(self, weight_name: str) -> bool:
        """Whether a tensor is named as the layer."""
        return any(name in self._file_of for name in names_of(weight_name))

    def unmatched(self, weight_names: Sequence[str]) -> list[str]:
        """Tensors whose names fit none of the weights: of other modules, or misspelled."""
        known = {name for weight_name in weight_names for name in names_of(weight_name)}
        return [name for name in self._file_of if name not in known]

    def tokens(self, weight_name: str, in_features: int) -> Tokens:
        """Read the tokens of a layer.

        Raises
        ------
        ContainerError
            No tensor of the layer or several, another shape, too few tokens, or values that are no floats. A value that is
            not finite, or whose square is not finite in float32.
        """
        there = [name for name in names_of(weight_name) if name in self._file_of]
        if len(there) != 1:
            # Each name stands once, so that a line of long names is not cut.
            problem = (
                f"{', '.join(there)} are there, expected one of them"
                if there
                else f"has none, expected one tensor named {' or '.join(names_of(weight_name))}"
            )
            raise ContainerError(f"{self.path}: tokens of {weight_name}: {problem}")
        file, name = self._file_of[there[0]], there[0]
        info = file.tensors[name]
        self._check(file, info, in_features)
        array = file.array(name)
        assert not isinstance(array, RawTensor), "checked by its dtype"
        flat = array.reshape(-1, in_features)
        first, last = self.counts
        for start, stop in ((0, first), (len(flat) - last, len(flat))):
            if bad := first_unusable(flat[start:stop]):
                token, feature = start + bad[0], bad[1]
                raise ContainerError(
                    f"{file.where(name)}: token {token}, feature {feature} is {float(flat[token, feature]):g}, expected finite "
                    f"numbers of at most {most_of(flat):.2g}"
                )
        found_tokens = Tokens(flat[:first].astype(np.float32), flat[len(flat) - last :].astype(np.float32))
        del array, flat
        return found_tokens

    def _check(self, file: SafetensorsReader, info: TensorInfo, in_features: int) -> None:
        kind = dtypes.BY_CONTAINER_CODE.get(info.dtype)
        if kind is None or kind.kind != "float":
            raise ContainerError(f"{file.where(info.name)}: dtype {info.dtype}, expected floats")
        if len(info.shape) not in (2, 3) or info.shape[-1] != in_features:
            raise ContainerError(
                f"{file.where(info.name)}: shape {list(info.shape)}, expected [tokens, {in_features}] or "
                f"[batch, sequence, {in_features}]"
            )
        tokens = math.prod(info.shape[:-1])
        if tokens < sum(self.counts):
            raise ContainerError(
                f"{file.where(info.name)}: {tokens} tokens, expected at least {self.counts[0]} to calibrate "
                f"(--calibration-tokens) and {self.counts[1]} others to measure (--eval-tokens)"
            )


class Recorded:
    """Tokens that were recorded just now, in memory.

    Parameters
    ----------
    fit, x : mapping of str to float32 array [L, K]
        Calibration tokens and others that are measured, by the names of the weights.
    origin : Origin
        Model and text.

    Raises
    ------
    ContainerError
        Layers of one mapping are not those of the other.

    Examples
    --------
    >>> tokens = {"q.weight": np.ones((4, 8), np.float32)}
    >>> source = Recorded(tokens, tokens, Origin("smollm2", "", "news", ""))
    >>> source.description, source.counts
    ('smollm2 on news', (4, 4))
    """

    def __init__(self, fit: Mapping[str, Floats], x: Mapping[str, Floats], origin: Origin) -> None:
        if not fit or fit.keys() != x.keys():
            raise ContainerError(
                f"recorded tokens of {len(fit)} layers to calibrate and {len(x)} to measure: expected the same layers"
            )
        self._fit, self._x, self.origin = fit, x, origin
        self.counts = (len(next(iter(fit.values()))), len(next(iter(x.values()))))
        self.description = f"{origin.model} on {origin.text}"

    def has(self, weight_name: str) -> bool:
        """Whether the layer was recorded."""
        return weight_name in self._x

    def unmatched(self, weight_names: Sequence[str]) -> list[str]:
        """Recorded layers whose names fit no weight."""
        known = set(weight_names)
        return [name for name in self._x if name not in known]

    def tokens(self, weight_name: str, in_features: int) -> Tokens:
        """Give the tokens of a layer.

        Raises
        ------
        ContainerError
            Tokens of another width, or as for `Dump.tokens`.
        """
        found = Tokens(self._fit[weight_name], self._x[weight_name])
        for x in found:
            if x.ndim != 2 or x.shape[1] != in_features:
                raise ContainerError(
                    f"{self.description}: tokens of {weight_name} have shape {list(x.shape)}, expected [tokens, {in_features}]"
                )
            if bad := first_unusable(x):
                raise ContainerError(
                    f"{self.description}: tokens of {weight_name}: token {bad[0]}, feature {bad[1]} is {float(x[bad]):g}, "
                    f"expected finite numbers of at most {most_of(x):.2g}"
                )
        return found

    def arrays(self) -> dict[str, Floats]:
        """All tokens of each layer, those of calibration first: what a dump holds.

        Examples
        --------
        >>> tokens = {"q.weight": np.ones((4, 8), np.float32)}
        >>> Recorded(tokens, tokens, Origin()).arrays()["q.weight"].shape
        (8, 8)
        """
        return {name: np.concatenate([self._fit[name], x]) for name, x in self._x.items()}


@contextlib.contextmanager
def open_dump(path: str | os.PathLike[str], calibration_tokens: int, eval_tokens: int) -> Iterator[Dump]:
    """Open a file of recorded tokens, an index of several, or a folder with one.

    Raises
    ------
    ContainerError
        No such file, or none of that format.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from nmsim import save_file
    >>> path = Path(tempfile.mkdtemp()) / "dump.safetensors"
    >>> save_file({"layers.0.q_proj": np.ones((2, 6, 8), np.float32)}, path)
    >>> with open_dump(path, 4, 8) as dump:
    ...     dump.tokens("layers.0.q_proj.weight", 8).x.shape
    (8, 8)
    """
    with open_checkpoint(path) as files:
        yield Dump(path, files.files, calibration_tokens, eval_tokens)


def module_name(weight_name: str) -> str:
    """Name of the module that a weight is of: how rows name a layer, as those of losses do.

    Of a tensor of several experts the number of the expert stays.

    Examples
    --------
    >>> module_name("model.layers.3.self_attn.q_proj.weight"), module_name("experts.up.weight[2]"), module_name("h.w1")
    ('model.layers.3.self_attn.q_proj', 'experts.up[2]', 'h.w1')
    """
    stem, mark, number = weight_name.partition("[") if weight_name.endswith("]") else (weight_name, "", "")
    return (stem.removesuffix(".weight") or stem) + mark + number


def names_of(weight_name: str) -> tuple[str, ...]:
    """Names that the tokens of a layer may have in a dump.

    Examples
    --------
    >>> names_of("layers.0.q_proj.weight")
    ('layers.0.q_proj.weight', 'layers.0.q_proj', 'layers.0.q_proj.input')
    """
    stem = weight_name.removesuffix("weight").removesuffix(".")
    return tuple(
        dict.fromkeys(name for name in (weight_name, stem, f"{stem}.input" if stem else "input") if name)
    )


def refuse_missing(source: Source, weight_names: Sequence[str], others: Sequence[str]) -> None:
    """Refuse a source without the tokens of some layer.

    Parameters
    ----------
    source : Source
    weight_names : sequence of str
        Of the layers.
    others : sequence of str
        Tensors of the source that are of no layer, which may be mistyped.

    Raises
    ------
    ContainerError
        Naming layers that have none.
    """
    missing = [name for name in weight_names if not source.has(name)]
    if missing:
        typed = f"; in it, of no tensor of the checkpoint: {some_of(others)}" if others else ""
        raise ContainerError(
            f"{source.description}: no activations of {len(missing)} of {len(weight_names)} layers: {some_of(missing)}; "
            "expected tensors named as weights, with or without .weight, or .input (--allow-missing leaves those layers "
            f"out){typed}"
        )


def some_of(names: Sequence[str]) -> str:
    """Print the first names and how many others there are.

    Examples
    --------
    >>> some_of("abcdefgh")
    'a, b, c, d, e and 3 more'
    """
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{', '.join(names[:SHOWN_NAMES])}{more}"


def _refuse_few(calibration_tokens: int, eval_tokens: int) -> None:
    for name, count in (("calibration_tokens", calibration_tokens), ("eval_tokens", eval_tokens)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise RowError(f"{name}={brief(count)}: expected a positive int")
