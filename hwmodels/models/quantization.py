"""What `quantization_config` says: the value type of the stored weights, and the parts that keep another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hwmodels.models.records import Role
from nmsim.errors import SpecError, brief

CONVERTED: tuple[Role, ...] = ("attention", "mixer", "feed_forward", "expert", "shared_expert", "side")
"""Roles that quantisers convert. Heads and routers keep their type unless a file says otherwise, which no layer needs."""
PARTS: Mapping[str, tuple[Role, ...]] = {
    "self_attn": ("attention",),
    "attention": ("attention",),
    "attn": ("attention", "mixer"),
    "mamba": ("mixer",),
    "mixer": ("mixer",),
    "shared_expert": ("shared_expert",),
    "experts": ("expert",),
    "block_sparse_moe": ("expert",),
    "mlp": ("feed_forward",),
    "feed_forward": ("feed_forward",),
}
"""Part of a name of modules that are not converted -> roles, the first part that stands in the name counts."""
NOT_LAYERS = (
    "embed",
    "lm_head",
    "norm",
    "vision",
    "visual",
    "router",
    "gate",
    "head",
    "rotary",
    "projector",
    "audio",
)
INTEGERS = {4: "int4", 8: "int8"}
FLOATS = {4: "fp4", 8: "fp8", 16: "bf16"}


@dataclass(frozen=True)
class Quantisation:
    """Value type of converted layers, roles that are not converted, and what to tell.

    Attributes
    ----------
    dtype : str or None
        None if the file says nothing, or a type that nmsim does not have.
    kept : frozenset of str
        Roles with the type of the model instead.
    notes : tuple of str
    """

    dtype: str | None = None
    kept: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def of(self, role: Role) -> str | None:
        """Value type of the layers of a role, None if they are not converted."""
        return self.dtype if role in CONVERTED and role not in self.kept else None


def quantisation(config: Mapping[str, Any], *, where: str) -> Quantisation:
    """Read `quantization_config` (or `compression_config`) of a configuration.

    Raises
    ------
    SpecError
        It is no object, or its number of bits is no number.

    Examples
    --------
    >>> quantisation({"quantization_config": {"quant_method": "fp8"}}, where="config.json").dtype
    'fp8'
    """
    key = next((name for name in ("quantization_config", "compression_config") if config.get(name)), None)
    if key is None:
        return Quantisation()
    said = config[key]
    if not isinstance(said, Mapping):
        raise SpecError(f"{where}: {key}: expected an object, got {brief(said)}")
    method = said.get("quant_method", "compressed-tensors" if key == "compression_config" else "")
    if not isinstance(method, str) or not method:
        method = "modelopt" if "quant_algo" in said else "not named"
    # A method that is not known is no error: the shapes of the layers do not depend on it.
    reader = METHODS.get(method.lower().replace("_", "-"))
    try:
        dtype, detail = reader(said) if reader else (None, "")
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise SpecError(f"{where}: {key}: method {method} with malformed entries, {error}") from error
    name = f"{method} {detail}".strip()
    if dtype is None:
        why = "a method that nmsim does not know" if reader is None else "no value type of nmsim"
        return Quantisation(notes=(f"{key} says {name}: {why}; give the value type yourself",))
    kept, others = _kept(said)
    notes = [
        f"{key} says {name}: the default value type of converted layers is {dtype}, without their scales"
    ]
    if kept or others:
        listed = sorted({*kept}) + others[:4] + (["..."] if len(others) > 4 else [])
        notes.append(f"not converted by {key}: {', '.join(listed)}")
    return Quantisation(dtype, frozenset(kept), tuple(notes))


def _kept(said: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """Roles that stand in lists of modules that are not converted, and entries that name no part of the model layers."""
    names: list[str] = []
    for key in (
        "modules_to_not_convert",
        "ignored_layers",
        "ignore",
        "exclude_modules",
        "llm_int8_skip_modules",
    ):
        listed = said.get(key) or []
        names += [
            each for each in (listed if isinstance(listed, list) else [listed]) if isinstance(each, str)
        ]
    inner = said.get("quantization")
    if isinstance(inner, Mapping) and isinstance(inner.get("exclude_modules"), list):
        names += [each for each in inner["exclude_modules"] if isinstance(each, str)]
    # A name that stands for one model layer only, or for no layer of ours, keeps no whole role from being converted.
    roles: set[str] = set()
    others: list[str] = []
    for name in names:
        single = any(part.isdigit() for part in name.split("."))
        part = next((part for part in PARTS if part in name), None)
        whole = part is not None and (name.rstrip("*.$").endswith(part) or name.endswith(("experts", "*")))
        if part is not None and whole and not single and not any(other in name for other in NOT_LAYERS):
            roles |= {*PARTS[part]}
        else:
            others.append(name)
    return roles, list(dict.fromkeys(others))


def _int_bits(*keys: str) -> Callable[[Mapping[str, Any]], tuple[str | None, str]]:
    def read(said: Mapping[str, Any]) -> tuple[str | None, str]:
        for key in keys:
            if key in said:
                bits = _bits(said[key])
                return INTEGERS.get(bits), f"with {bits} bits"
        return None, "without bits"

    return read


def _bits(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 32:
        raise ValueError(f"bits={brief(value)}: expected a whole number from 1 to 32")
    return value


def _always(dtype: str | None, detail: str = "") -> Callable[[Mapping[str, Any]], tuple[str | None, str]]:
    return lambda said: (dtype, detail)


def _bitsandbytes(said: Mapping[str, Any]) -> tuple[str | None, str]:
    if said.get("load_in_4bit"):
        code = str(said.get("bnb_4bit_quant_type", "fp4"))
        return "fp4", f"{code}, 4 bits per value"
    return (
        ("int8", "with 8 bits")
        if said.get("load_in_8bit")
        else (None, "without load_in_4bit or load_in_8bit")
    )


def _modelopt(said: Mapping[str, Any]) -> tuple[str | None, str]:
    inner = said.get("quantization", said)
    algorithm = str(inner.get("quant_algo", said.get("quant_algo", "")))
    for known, dtype in (
        ("FP4", "fp4"),
        ("W4A16", "int4"),
        ("W4A8", "int4"),
        ("FP8", "fp8"),
        ("INT8", "int8"),
        ("W8A8", "int8"),
    ):
        if known in algorithm.upper():
            return dtype, algorithm
    return None, algorithm or "without quant_algo"


def _compressed_tensors(said: Mapping[str, Any]) -> tuple[str | None, str]:
    """The types of all groups, if they agree; a group without weights has none."""
    found = set()
    for group in said.get("config_groups", {}).values():
        weights = group.get("weights")
        if weights:
            bits = _bits(weights["num_bits"])
            found.add((FLOATS if weights.get("type") == "float" else INTEGERS).get(bits))
    if len(found) == 1:
        return found.pop(), str(said.get("format", ""))
    return None, "with weights of several types" if found else f"{said.get('format', '')} without weights"


def _torchao(said: Mapping[str, Any]) -> tuple[str | None, str]:
    kind = said.get("quant_type", "")
    text = str(kind).lower()
    for known, dtype in (
        ("int4", "int4"),
        ("uint4", "int4"),
        ("float8", "fp8"),
        ("int8", "int8"),
        ("float4", "fp4"),
    ):
        if known in text:
            return dtype, str(kind)[:40]
    return None, str(kind)[:40]


def _quanto(said: Mapping[str, Any]) -> tuple[str | None, str]:
    kind = str(said.get("weights"))
    return {"int8": "int8", "float8": "fp8", "int4": "int4"}.get(kind), kind


METHODS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str | None, str]]] = {
    "fp8": _always("fp8"),
    "fbgemm-fp8": _always("fp8"),
    "fine-grained-fp8": _always("fp8"),
    "mxfp4": _always("fp4", "(4-bit values with a scale per 32)"),
    "nvfp4": _always("fp4", "(4-bit values with a scale per 16)"),
    "gptq": _int_bits("bits"),
    "gptq-marlin": _int_bits("bits"),
    "awq": _int_bits("bits", "w_bit"),
    "auto-round": _int_bits("bits"),
    "intel/auto-round": _int_bits("bits"),
    "hqq": _int_bits("nbits", "bits"),
    "eetq": _always("int8"),
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "compressed-tensors": _compressed_tensors,
    "torchao": _torchao,
    "quanto": _quanto,
    "bitnet": _always(None, "(three values per weight)"),
    "aqlm": _always(None, "(codebooks)"),
    "quip": _always(None, "(codebooks)"),
    "vptq": _always(None, "(codebooks)"),
    "higgs": _always(None, "(codebooks)"),
    "spqr": _always(None, "(3 bits with outliers)"),
}  # fmt: skip
"""`quant_method` -> the function that finds the value type and the detail for the note."""
