"""The `config.json` beside a checkpoint: what it says of sparsity, and what it must say after a conversion."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nmsim.errors import ContainerError, brief
from nmsim.files.safetensors import loads_strict
from nmsim.support.sources import read_bytes

NAME = "config.json"
RECIPE = "recipe.yaml"
MAX_BYTES = 1 << 24
QUANTIZATION_KEYS = ("quantization_config", "compression_config")
"""Where compressed-tensors writes, today and in older files."""
METHOD = "compressed-tensors"
VERSION = "0.14.0.1"
"""Version of compressed-tensors whose bytes and keys are written."""
STRUCTURE = re.compile(r"[1-9][0-9]{0,2}:[1-9][0-9]{0,2}", re.ASCII)
MASK_STRUCTURE = re.compile(r"""mask_structure['"]?\s*:\s*['"]?([0-9]{1,3}:[0-9]{1,3})""", re.ASCII)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a folder; empty if there is none.

    Raises
    ------
    ContainerError
        A file that is no JSON object, or has sparsity entries of another shape.
    """
    path = folder / NAME
    text = _text(path)
    if text is None:
        return {}
    try:
        config = loads_strict(text)
    except ValueError as error:
        raise ContainerError(f"{path}: is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise ContainerError(f"{path}: holds a {type(config).__name__}, expected an object")
    for keys in (QUANTIZATION_KEYS, ("sparsity_config",)):
        part: Any = config if keys == QUANTIZATION_KEYS else quantization(config)
        for key in keys:
            if not isinstance(part.get(key) or {}, dict):
                raise ContainerError(f"{path}: {key} is a {type(part[key]).__name__}, expected an object")
    return config


def quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part about compression, or empty."""
    for key in QUANTIZATION_KEYS:
        if config.get(key):
            return dict(config[key])
    return {}


def stated_structure(config: Mapping[str, Any], folder: Path) -> tuple[str, str] | None:
    """Find an N:M that the files beside a checkpoint state, and where; None if there is none.

    A recipe of llm-compressor counts pruned elements, and what it writes into `sparsity_structure` is the same text. Other
    tools count kept ones there. So the text alone says no pattern: see `nmsim.interchange.zeros.stated_pattern`.
    """
    structure = (quantization(config).get("sparsity_config") or {}).get("sparsity_structure")
    if isinstance(structure, str) and STRUCTURE.fullmatch(structure):
        return structure, f"{folder / NAME}: sparsity_structure"
    recipe = _text(folder / RECIPE)
    match = MASK_STRUCTURE.search(recipe or "")
    if match and STRUCTURE.fullmatch(match[1]):
        return match[1], f"{folder / RECIPE}: mask_structure"
    return None


def sparsity_config(format: str, *, dense: Iterable[str], sparsity: float, structure: str) -> dict[str, Any]:
    """Write what compressed-tensors states of a sparse checkpoint.

    Parameters
    ----------
    format : str
    dense : names
        Matrices named `*.weight` that are not packed.
    sparsity : float
        Share of zeros in the packed weights.
    structure : str
        N:M with N kept, or "unstructured".
    """
    return {
        "format": format,
        "targets": ["Linear"],
        "ignore": sorted(name.removesuffix(".weight") for name in dense),
        "global_sparsity": sparsity,
        "sparsity_structure": structure,
        "registry_requires_subclass": False,
    }


def rewritten(
    config: Mapping[str, Any], *, sparsity: Mapping[str, Any] | None, quantized_format: str | None = None
) -> dict[str, Any]:
    """Make the `config.json` of a converted checkpoint.

    Parameters
    ----------
    config : mapping
        Of the source.
    sparsity : mapping or None
        `sparsity_config` of the target; None if its tensors are not those of compressed-tensors.
    quantized_format : str, optional
        New `format` of quantised values.

    Raises
    ------
    ContainerError
        Values that another method quantised, in a file of compressed-tensors.
    """
    out = {key: value for key, value in config.items() if key not in QUANTIZATION_KEYS}
    compression = quantization(config)
    compression.pop("sparsity_config", None)
    if sparsity is not None:
        method = compression.get("quant_method", METHOD)
        if method != METHOD:
            raise ContainerError(
                f"{NAME}: the source is quantised by {brief(method)}, expected {METHOD} or none for a target of {METHOD}"
            )
        # No "format" without quantised values: compressed-tensors takes any further key for a scheme of quantisation.
        compression = {"quant_method": METHOD, "version": VERSION, **compression}
        compression["sparsity_config"] = dict(sparsity)
    elif compression.get("quant_method") == METHOD and not compression.get("config_groups"):
        # Without sparsity and without quantised values nothing is left to say.
        compression = {}
    if quantized_format is not None and compression:
        compression["format"] = quantized_format
    if compression:
        out[QUANTIZATION_KEYS[0]] = compression
    return out


def config_text(config: Mapping[str, Any]) -> str:
    """Write the file."""
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _text(path: Path) -> str | None:
    """Text of a file of a sensible size; None if there is none."""
    if not path.exists():
        return None
    try:
        return read_bytes(path, expected="a text file", most_bytes=MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ContainerError(f"{path}: cannot be read as UTF-8: byte {error.start}: {error.reason}") from None
