"""The options that several verbs have, each declared once, and how their text is read."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from typer import Argument, Option

from nmsim.errors import NmsimError, SpecError, brief
from nmsim.format import DEFAULT_ENCODING, DEFAULT_PACKING, DENSE, SparseFormat, as_format

if TYPE_CHECKING:
    from hwmodels import Chip, SparseTensorCore

MODEL = "llama-3.1-8b"
BITSTREAM = [DEFAULT_PACKING]


def _value_type(text: str | None) -> str | None:
    from nmsim.case import value_type

    return None if text is None else value_type(text, "--dtype")


SHAPE = Argument(
    help="Shape of the product: tokens M, out features N, in features K, such as 1,4096,4096.",
    metavar="M,N,K",
)
Shape = Annotated[str, SHAPE]
ShapeOrNone = Annotated[str | None, SHAPE]
Patterns = Annotated[
    list[str],
    Option(
        "--pattern",
        "--patterns",
        "-p",
        metavar="FORMATS",
        help="Formats, joined by commas or repeated: N:M (N elements kept of every M), N:M/ENCODING, or "
        "N:M/ENCODING/PACKING.",
    ),
]
PatternsOrNone = Annotated[
    list[str] | None,
    Option(
        "--pattern",
        "--patterns",
        "-p",
        metavar="FORMATS",
        help="Formats to try, as N:M, N:M/ENCODING or N:M/ENCODING/PACKING. Default 2:4,4:8,8:16,16:32.",
    ),
]
Encodings = Annotated[
    list[str] | None,
    Option(
        "--encoding",
        "--encodings",
        "-e",
        metavar="ENCODINGS",
        help="Metadata encodings of formats that name none: bitmask, index, gap:W, combinatorial, tiled or joint:G.",
    ),
]
Packings = Annotated[
    list[str],
    Option(
        "--packing",
        "--packings",
        metavar="PACKINGS",
        help="Packing of formats that name none: bitstream, no_straddle[:W], power_of_two or byte.",
    ),
]
PackingsOrNone = Annotated[
    list[str] | None,
    Option("--packing", "--packings", metavar="PACKINGS", help="Packing policies to try. Default bitstream."),
]
Hardware = Annotated[
    list[str],
    Option(
        "--hardware",
        "-H",
        metavar="CHIPS",
        help="Machines or core designs that ship with nmsim, or paths of their TOML files, joined by commas.",
    ),
]
Machines = Annotated[
    list[str],
    Option(
        "--hardware",
        "-H",
        metavar="MACHINES",
        help="Machines that ship with nmsim, or paths of hardware TOML files, joined by commas.",
    ),
]
Cores = Annotated[
    list[str],
    Option(
        "--core",
        "--cores",
        "-c",
        metavar="CORES",
        help="Core designs that ship with nmsim, or paths of core TOML files.",
    ),
]
Model = Annotated[
    str, Option("--model", "-m", help="Model that ships with nmsim, or a Hugging Face config.json.")
]
Dtype = Annotated[
    str,
    Option(
        help="Value type of both operands: fp32, tf32, fp16, bf16, fp8, int8, fp4, int4, or another name of them such "
        "as bfloat16.",
        callback=_value_type,
    ),
]
DtypeOrNone = Annotated[str | None, Option("--dtype", help="Value type, such as bf16.", callback=_value_type)]
DtypeOfModel = Annotated[
    str | None,
    Option(
        "--dtype",
        help="Value type of both operands, such as bf16 or fp8. Default: what the model says of each layer, else bf16.",
        callback=_value_type,
    ),
]
Context = Annotated[
    int,
    Option(
        "--context",
        metavar="TOKENS",
        min=0,
        help="Tokens of each sequence that a decode step attends to, from which the KV cache follows. 0: attention is not "
        "counted, also in prefill.",
    ),
]
KvDtype = Annotated[
    str | None,
    Option(
        "--kv-dtype", help="Value type of the KV cache, such as fp8. Default: that of attention, 16 bits."
    ),
]
OutputDtype = Annotated[
    str | None,
    Option(
        "--output-dtype",
        help="Value type of outputs, if they are requantised. Default: 16 bits, fp32 for 32 bits.",
    ),
]
Fuse = Annotated[
    list[str] | None,
    Option("--fuse", metavar="LAYERS", help="Layers that run as one product: qkv, gate_up."),
]
ExpertLoads = Annotated[
    Path | None,
    Option(
        "--expert-loads",
        metavar="FILE",
        help="Measured load per expert: a CSV file with columns expert,load or a JSON list. Default: equal loads.",
    ),
]
Operand = Annotated[
    str,
    Option(
        "--operand",
        "--sparse-operand",
        metavar="OPERAND",
        help="Operand that is pruned: weights or activations.",
    ),
]
Tokens = Annotated[int, Option("--tokens", "-t", min=1, help="Sequences decoded together, one token each.")]
Weights = Annotated[
    Path,
    Argument(
        help="A .safetensors file, a *.safetensors.index.json, or the folder that holds one.",
        metavar="CHECKPOINT",
    ),
]
Include = Annotated[
    list[str] | None,
    Option(
        "--include",
        "-i",
        metavar="GLOB",
        help="Tensors to take, as a shell pattern such as '*.mlp.*'; may be repeated. By default the linear weights of "
        "the body: no embeddings, heads, routers, norms, position tables or draft heads.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    Option("--exclude", "-x", metavar="GLOB", help="Tensors to leave as they are; may be repeated."),
]
Everything = Annotated[
    bool, Option("--all", help="Take every tensor of two or more dimensions, like --include '*'.")
]
Axis = Annotated[
    int | None,
    Option(help="Axis along which groups run, for all tensors. Default: that of each weight's in features."),
]
Explain = Annotated[
    bool, Option("--explain", help="Print each tensor with the reason why it is pruned or left dense.")
]
Threads = Annotated[int, Option(min=0, help="CPU cores to use; 0 means all.")]
Seed = Annotated[int, Option(help="Seed of what is drawn at random.")]
Device = Annotated[str, Option(help="Device to measure: cpu or cuda.")]
OutputCsv = Annotated[
    Path | None, Option("--output", "-o", metavar="FILE", help="CSV file to write the rows into.")
]
Losses = Annotated[
    str | None,
    Option(
        "--losses",
        metavar="FILE",
        help="Measured losses to show beside the costs: a CSV file of rows, the table of nmsim quality, or smollm2. Default: "
        "smollm2, the rows that ship with nmsim, if there are any; '' for none.",
    ),
]
LossesOf = Annotated[
    list[str] | None,
    Option(
        "--losses-of",
        metavar="KEY=VALUE",
        help="Which rows of the losses count if they are of several models or texts, such as text=news.",
    ),
]
Force = Annotated[bool, Option("--force", "-f", help="Replace existing files; never an input.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON instead of text.")]
Wide = Annotated[bool, Option("--wide", help="Print tables with all columns, wider than 100 characters.")]


class Asked(NamedTuple):
    """A format of the command line, None if dense; `chosen` says that somebody named its encoding."""

    format: SparseFormat | None
    chosen: bool


def split_names(values: Iterable[str], what: str = "") -> list[str]:
    """Take names given one by one or joined by commas, in order, each once; none at all is refused if `what` is said.

    Examples
    --------
    >>> split_names(["2:4,4:8", "8:16", "2:4"])
    ['2:4', '4:8', '8:16']
    """
    names = (name.strip() for value in values for name in value.split(","))
    chosen = list(dict.fromkeys(name for name in names if name))
    if what and not chosen:
        raise NmsimError(f"no {what} given: expected at least one")
    return chosen


def formats(
    patterns: Iterable[str], encodings: Iterable[str] | None = None, packings: Iterable[str] = BITSTREAM
) -> list[Asked]:
    """Read `--pattern`, and fill in what its formats leave out from `--encoding` and `--packing`: all combinations.

    Raises
    ------
    NmsimError
        No pattern, or an empty list of encodings.
    PatternError, EncodingError, BitstreamError
        A part that does not exist.

    Examples
    --------
    >>> [asked.format.short for asked in formats(["2:4,8:16/index"], ["bitmask,gap:2"])]
    ['2:4/bitmask', '2:4/gap:2', '8:16/index']
    """
    names = [DEFAULT_ENCODING] if encodings is None else split_names(encodings, "encoding")
    policies = split_names(packings, "packing")
    asked: list[Asked] = []
    for text in split_names(patterns, "pattern"):
        for encoding, packing in itertools.product(names, policies):
            one = as_format(text, encoding=encoding, packing=packing)
            asked.append(Asked(one, one is None or "/" in text or encodings is not None))
    return list(dict.fromkeys(asked))


def format_text(form: SparseFormat | None) -> str:
    """Write a format for a table."""
    return DENSE if form is None else form.short


def read_shape(text: str) -> "tuple[int, int, int]":
    """Read the shape M,N,K of a product.

    Raises
    ------
    SpecError
        A text that is not three positive integers.
    """
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise SpecError(
            f"shape {brief(text)}: expected M,N,K as three positive integers, such as 1,4096,4096"
        )
    m, n, k = (int(part) for part in parts)
    return m, n, k


def whole_numbers(option: str, texts: Iterable[str], such_as: str) -> list[int]:
    """Read whole numbers given one by one or joined by commas.

    Raises
    ------
    NmsimError
        A word that is not a whole number.
    """
    words = split_names(texts)
    for word in words:
        if not (word.isascii() and word.isdigit()):
            raise NmsimError(f"{option} {brief(word)}: expected positive whole numbers, such as {such_as}")
    return [int(word) for word in words]


def all_cores(threads: int) -> int:
    """Number of CPU cores to use: those the process may use if `threads` is 0."""
    if threads:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_of(named: str | None, chips: "Sequence[Chip]", default: str) -> "SparseTensorCore | None":
    """Read `--core`: the core that is named, none if the name is empty; by default the first design among the chips."""
    import hwmodels

    if named is not None:
        return hwmodels.load_core(named) if named else None
    designs = (chip for chip in chips if isinstance(chip, hwmodels.SparseTensorCore))
    return next(designs, None) or hwmodels.load_core(default)
