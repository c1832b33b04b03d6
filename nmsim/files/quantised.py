"""Quantised tensors of a checkpoint: which format they are of, what their scales are, and their real numbers.

A format is known by the names, dtypes and shapes that its writers give to a layer's tensors. Of a format with one
stored number per weight (FP8, INT8) the weights are pruned as they are, in the order of their real magnitudes. A format that
packs several numbers into a byte is never pruned: its bytes are no numbers. Some of these formats can be read.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import ContainerError, brief
from nmsim.files.safetensors import RawTensor, TensorInfo

BLOCK = 128
"""Weights that share a scale along an axis, if the configuration does not say it."""

MXFP4_BLOCK = 32
PLAIN_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
"""No format stores quantised numbers in these."""
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""Magnitudes of a 4-bit float with two bits of exponent and one of fraction, by its three lower bits."""

SCALE_ENDS = ("_scale_inv", "_scale", "_scales")
SIDE_ENDS = (
    "weight_scale_inv", "weight_scale", "weight_scale_2", "weight_global_scale", "input_scale", "input_global_scale",
    "output_scale", "k_scale", "v_scale", "q_scale", "kv_scale", "activation_scale", "weight_zero_point", "input_zero_point",
    "weight_shape", "weight_g_idx", "weights_scaling_factor", "pre_quant_scale", "SCB", "absmax", "quant_map", "nested_absmax",
    "nested_quant_map", "qzeros", "g_idx", "scales_and_zeros", "weight_scales", "weight_format",
)  # fmt: skip
"""Ends of names whose tensors belong to a quantised weight beside them."""


@dataclass(frozen=True)
class Quantisation:
    """What a tensor is in a quantised format.

    Parameters
    ----------
    format : str
        Its name, for people.
    part : {"values", "packed", "side"}
        One stored number per weight; several numbers per stored element; or scales and the like.
    scales : str
        The tensor of the scales of `values`, if it has some.
    base : str
        Name that the weight has in an unquantised checkpoint; "" only for `side`.
    shape : tuple of int
        Of that weight; () if not known.
    readable : bool
        `read` gives the numbers of a packed tensor.
    verb : str
        Command that reads the format, if nmsim has one.
    """

    format: str
    part: str
    scales: str = ""
    base: str = ""
    shape: tuple[int, ...] = ()
    readable: bool = False
    verb: str = ""


class Source(Protocol):
    """Where tensors are read: `nmsim.files.sharded.Checkpoint`."""

    def array(self, name: str) -> NDArray[Any] | RawTensor:
        """Give a tensor of any file."""


def recognise(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None = None
) -> dict[str, Quantisation]:
    """Find the tensors of quantised formats.

    Parameters
    ----------
    tensors : mapping of name to TensorInfo
        All tensors of a checkpoint.
    config : mapping, optional
        The model's `config.json`; its `quantization_config` names bytes that no other tensor explains.

    Returns
    -------
    dict of str to Quantisation
        Without the tensors that are no part of any.

    Examples
    --------
    >>> recognise({"fc.weight": TensorInfo("fc.weight", "F8_E4M3", (4, 8), 0, 32),
    ...            "fc.weight_scale_inv": TensorInfo("fc.weight_scale_inv", "F32", (1, 1), 32, 36)})["fc.weight"].format
    'FP8 with block scales'
    """
    found: dict[str, Quantisation] = {}
    method = _method(config)
    for name, info in tensors.items():
        base, _, leaf = name.rpartition(".")
        if leaf in ("weight", "bias") and info.dtype in PLAIN_DTYPES:
            continue
        one = _recognised(name, base, leaf, info, tensors, method)
        if one is not None:
            found[name] = one
    return found


def _recognised(
    name: str, base: str, leaf: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], method: str
) -> Quantisation | None:
    """Try one format after another; the first whose tensors are all there is it."""

    def has(*leaves: str) -> bool:
        return all((f"{base}.{one}" if base else one) in tensors for one in leaves)

    # Formats that are known by names of their own come before those that use the name of a plain weight.
    weight = f"{base}.weight" if base else "weight"
    if leaf.endswith("_blocks") and info.dtype == "U8" and name[: -len("_blocks")] + "_scales" in tensors:
        logical = (*info.shape[:-2], info.shape[-2] * 2 * info.shape[-1]) if len(info.shape) > 2 else ()
        readable = len(info.shape) > 2 and 2 * info.shape[-1] == MXFP4_BLOCK
        stem = name[: -len("_blocks")]
        return Quantisation("MXFP4", "packed", stem + "_scales", stem, logical, readable=readable)
    if leaf.endswith("_scales") and name[: -len("_scales")] + "_blocks" in tensors:
        return Quantisation("MXFP4", "side")
    if leaf == "qweight":
        return _integers_in_words(base, weight, info, tensors)
    if leaf in ("qzeros", "scales", "g_idx", "bias_correction") and has("qweight"):
        return Quantisation("GPTQ or AWQ", "side")
    if leaf in ("compressed", "bitmask", "row_offsets", "shape") and has("compressed", "bitmask"):
        name_of = (
            "compressed-tensors sparse-bitmask"
            if has("row_offsets")
            else "compressed-tensors sparse-24-bitmask"
        )
        part = "packed" if leaf == "compressed" else "side"
        return Quantisation(name_of, part, base=weight, verb="nmsim convert")
    if leaf in ("weight_packed", "scale_packed", "meta") and has("weight_packed", "scale_packed", "meta"):
        part = "packed" if leaf == "weight_packed" else "side"
        return Quantisation("compressed-tensors marlin-24", part, base=weight, verb="nmsim convert")
    if leaf == "weight_packed":
        kind = "NVFP4" if has("weight_global_scale") else "compressed-tensors pack-quantized"
        if info.dtype == "U8" and not has("weight_global_scale"):
            kind = "MXFP4 of compressed-tensors"
        return Quantisation(kind, "packed", base=weight)
    for leaves, kind in OTHER_FORMATS:
        if leaf in leaves and has(*leaves):
            return Quantisation(kind, "packed" if leaf == leaves[0] else "side", base=weight)
    if "quant_state" in name or "bitsandbytes__" in name:
        return Quantisation("bitsandbytes", "side")
    return _with_scales(name, info, tensors, method) or _side(name, leaf, tensors)


OTHER_FORMATS = (
    (("q_weight", "q_scale"), "EXL2"), (("trellis", "suh", "svh"), "EXL3"), (("codes", "codebooks", "scales"), "AQLM"),
    (("Qidxs", "SU", "SV"), "QuIP#"), (("W_q", "scale"), "HQQ"), (("B", "s"), "Marlin"),
    (("packed", "meta"), "torch semi-structured"), (("indices", "centroids"), "VPTQ"),
)  # fmt: skip
"""Tensors that a layer of a format has, the packed one first -> name of the format."""


def _with_scales(
    name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], method: str
) -> Quantisation | None:
    """A weight under its own name: one number per weight with scales beside it, or bytes that hold several."""
    # The dtype decides: bytes and words hold several numbers, 8-bit floats and signed integers one.
    ends = [end for end in SCALE_ENDS if name + end in tensors]
    stem, _, leaf = name.rpartition(".")
    beside = f"{stem}.scale" if stem else "scale"
    scales = name + ends[0] if ends else beside if leaf == "weight" and beside in tensors else ""
    if info.dtype == "U8":
        state = f"{name}.quant_state.bitsandbytes__"
        kinds = {"nf4": "bitsandbytes NF4", "fp4": "bitsandbytes FP4"}
        for end, kind in kinds.items():
            if state + end in tensors:
                return Quantisation(kind, "packed", base=name)
        if f"{name}.absmax" in tensors:
            return Quantisation("bitsandbytes NF4 or FP4", "packed", base=name)
        if name + "_scale_2" in tensors or name + "_global_scale" in tensors:
            shape = (*info.shape[:-1], 2 * info.shape[-1]) if info.shape else ()
            return Quantisation("NVFP4", "packed", base=name, shape=shape)
        if scales:
            return Quantisation("a format of packed bytes with scales", "packed", base=name)
        if method and leaf == "weight":
            return Quantisation(f"{method} (from config.json)", "packed", base=name)
        return None
    if scales and info.dtype in ("I8", "F4") and _packs_pairs(info, tensors[scales]):
        return Quantisation("MXFP4 in bytes", "packed", base=name)
    if info.dtype.startswith("F8") and info.dtype != "F8_E8M0" and scales:
        kind = "FP8 with block scales" if _is_block(info, tensors[scales]) else "FP8 with scales"
        return Quantisation(kind, "values", scales, name, info.shape)
    if info.dtype == "I8":
        rows = f"{stem}.SCB" if stem else "SCB"
        if rows in tensors:
            return Quantisation("bitsandbytes INT8", "values", rows, name, info.shape)
        if scales:
            return Quantisation("INT8 with scales", "values", scales, name, info.shape)
    if info.dtype in ("I32", "U32", "I16", "U16", "I64", "U64") and leaf == "weight" and (scales or method):
        return Quantisation(
            f"{method} (from config.json)" if method else "packed integers", "packed", base=name
        )
    return None


def _packs_pairs(info: TensorInfo, scales: TensorInfo) -> bool:
    """Bytes of two 4-bit floats: 16 of them share an 8-bit exponent."""
    return scales.dtype == "F8_E8M0" and bool(info.shape) and scales.shape[-1:] == (info.shape[-1] // 16,)


def _is_block(info: TensorInfo, scales: TensorInfo) -> bool:
    return (
        len(scales.shape) == len(info.shape)
        and len(info.shape) > 1
        and scales.shape[-1] * scales.shape[-2] != info.shape[-2]
        and (scales.name.endswith("_scale_inv") or math.prod(scales.shape) > 1)
    )


def _side(name: str, leaf: str, tensors: Mapping[str, TensorInfo]) -> Quantisation | None:
    if leaf in SIDE_ENDS or leaf.startswith("weight.") or any(name.endswith("." + end) for end in SIDE_ENDS):
        return Quantisation("scales", "side")
    for end in SCALE_ENDS:
        if name.endswith(end) and name[: -len(end)] in tensors:
            return Quantisation("scales", "side")
    if leaf == "scale" and name[: -len("scale")] + "weight" in tensors:
        weight = tensors[name[: -len("scale")] + "weight"]
        return Quantisation("scales", "side") if weight.dtype[0] in "IUF" and "8" in weight.dtype else None
    return None


def _integers_in_words(
    base: str, weight: str, info: TensorInfo, tensors: Mapping[str, TensorInfo]
) -> Quantisation:
    """GPTQ packs along in features, AWQ along out features; the scales, [groups, out], tell which."""
    prefix = f"{base}." if base else ""
    scales, zeros = tensors.get(prefix + "scales"), tensors.get(prefix + "qzeros")
    if scales is None or len(info.shape) != 2 or len(scales.shape) != 2 or info.dtype != "I32":
        return Quantisation("GPTQ or AWQ", "packed", base=weight)
    out = scales.shape[1]
    if info.shape[1] != out:
        return Quantisation("AWQ", "packed", base=weight)
    index = tensors.get(prefix + "g_idx")
    bits = 0
    if zeros is not None and zeros.shape[0] == scales.shape[0]:
        bits = 32 * zeros.shape[1] // out
    in_features = index.shape[0] if index is not None else info.shape[0] * 32 // (bits or 4)
    readable = bits in (2, 4, 8) and in_features * bits == 32 * info.shape[0]
    return Quantisation(
        f"GPTQ of {bits} bits" if bits else "GPTQ",
        "packed",
        prefix + "scales",
        weight,
        (out, in_features),
        readable=readable,
    )


def _method(config: Mapping[str, Any] | None) -> str:
    """Name of the method in `quantization_config`, or nothing."""
    about = (config or {}).get("quantization_config")
    method = about.get("quant_method") if isinstance(about, dict) else None
    return method if isinstance(method, str) else ""


def scale_blocks(
    info: TensorInfo, scales: TensorInfo, config: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    """Count the weights that share a scale along each axis.

    Parameters
    ----------
    info, scales : TensorInfo
        A weight and its scales. Scales of one axis belong to the rows of a matrix.
    config : mapping, optional
        `quantization_config.weight_block_size` is taken if it fits.

    Returns
    -------
    tuple of int
        One count per axis of the weight.

    Raises
    ------
    ContainerError
        Scales of a shape that does not fit the weight.

    Examples
    --------
    >>> scale_blocks(TensorInfo("w", "F8_E4M3", (256, 576), 0, 0), TensorInfo("s", "F32", (2, 5), 0, 0))
    (128, 128)
    """
    shape = _aligned(info, scales)
    about = (config or {}).get("quantization_config")
    stated = about.get("weight_block_size") if isinstance(about, dict) else None
    whole = (1,) * (len(shape) - len(stated)) + tuple(stated) if isinstance(stated, list) else ()
    blocks = []
    for place, (length, count) in enumerate(zip(info.shape, shape, strict=True)):
        if count == 1:
            blocks.append(max(length, 1))
            continue
        tried = [
            *(whole[place : place + 1] if len(whole) == len(shape) else ()),
            BLOCK,
            *(length // count if length % count == 0 else 0,),
            *(2**power for power in range(13)),
        ]
        fits = [one for one in tried if isinstance(one, int) and one > 0 and -(-length // one) == count]
        if not fits:
            raise ContainerError(
                f"tensor {brief(scales.name)} has shape {list(scales.shape)}, expected scales that fit "
                f"{brief(info.name)} of shape {list(info.shape)}"
            )
        blocks.append(fits[0])
    return tuple(blocks)


def _aligned(info: TensorInfo, scales: TensorInfo) -> tuple[int, ...]:
    """Shape of the scales with the axes of the weight."""
    rank = len(info.shape)
    shape = scales.shape
    if math.prod(shape) == 1:
        return (1,) * rank
    if len(shape) == rank:
        return shape
    if len(shape) == 1 and rank == 2 and shape[0] == info.shape[0]:
        return (shape[0], 1)
    if len(shape) == 1 and rank == 3 and shape[0] == info.shape[0]:
        return (shape[0], 1, 1)
    if len(shape) == 2 and rank == 3 and shape == info.shape[:2]:
        return (*shape, 1)
    raise ContainerError(
        f"tensor {brief(scales.name)} has shape {list(shape)}, expected scales that fit {brief(info.name)} of shape "
        f"{list(info.shape)}"
    )


def compact_scales(values: NDArray[Any], info: TensorInfo, scales: TensorInfo) -> NDArray[np.float32]:
    """Give the scales with the axes of the weight, one per block.

    Raises
    ------
    ContainerError
        Scales that are NaN, infinite or zero, or of another shape.
    """
    numbers = values.astype(np.float32).reshape(_aligned(info, scales))
    bad = ~np.isfinite(numbers) | (numbers == 0)
    if bad.any():
        where = ", ".join(str(int(place)) for place in np.argwhere(bad)[0])
        raise ContainerError(
            f"tensor {brief(scales.name)}[{where}] is {float(numbers[bad][0])}, the first of {int(bad.sum())} of {bad.size} "
            "scales that are zero, NaN or infinite; expected finite scales"
        )
    return numbers


def spread(
    compact: NDArray[np.float32], blocks: tuple[int, ...], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Repeat scales over their blocks: an array that broadcasts to `shape`.

    Examples
    --------
    >>> spread(np.array([[1, 2]], np.float32), (4, 2), (4, 3)).tolist()
    [[1.0, 1.0, 2.0]]
    """
    for place, block in enumerate(blocks):
        if compact.shape[place] > 1 and block > 1:
            compact = np.repeat(compact, block, axis=place)
            compact = compact[(slice(None),) * place + (slice(0, shape[place]),)]
    return compact


def read(checkpoint: Source, name: str, found: Quantisation) -> NDArray[np.float32]:
    """Read the numbers of a packed tensor.

    Parameters
    ----------
    checkpoint : Checkpoint
    name : str
        The packed tensor, such as `...gate_up_proj_blocks` or `...qweight`.
    found : Quantisation
        From `recognise`, readable.

    Returns
    -------
    float32 array of `found.shape`

    Raises
    ------
    ContainerError
        A format that nmsim does not read.
    """
    reader = next((one for begin, one in READERS if found.readable and found.format.startswith(begin)), None)
    if reader is None:
        raise ContainerError(
            f"tensor {brief(name)} is {found.format}, expected a format that nmsim reads: MXFP4 or GPTQ"
        )
    return reader(checkpoint, name, found)


def _array(checkpoint: Source, name: str) -> NDArray[Any]:
    array = checkpoint.array(name)
    assert not isinstance(array, RawTensor), "recognise takes no such dtype"
    return array


def _read_mxfp4(checkpoint: Source, name: str, found: Quantisation) -> NDArray[np.float32]:
    """Bytes [..., K/32, 16], the lower nibble first, times 2 to the power of a byte minus 127."""
    blocks, scales = _array(checkpoint, name), _array(checkpoint, found.scales)
    if scales.shape != blocks.shape[:-1]:
        raise ContainerError(
            f"tensor {brief(found.scales)} has shape {list(scales.shape)}, expected {list(blocks.shape[:-1])} for "
            f"{brief(name)}"
        )
    out = np.empty((*blocks.shape[:-1], MXFP4_BLOCK), np.float32)
    signed = np.concatenate([E2M1, -E2M1])
    out[..., 0::2] = signed[blocks & 15]
    out[..., 1::2] = signed[blocks >> 4]
    exponents = scales.view(np.uint8).astype(np.int32)
    if (exponents == 255).any():
        where = ", ".join(str(int(place)) for place in np.argwhere(exponents == 255)[0])
        raise ContainerError(
            f"tensor {brief(found.scales)}[{where}] is NaN, the first of {int((exponents == 255).sum())} such scales; "
            "expected numbers"
        )
    np.ldexp(out, (exponents - 127)[..., None], out=out)
    return out.reshape(found.shape)


def _read_gptq(checkpoint: Source, name: str, found: Quantisation) -> NDArray[np.float32]:
    """q of in feature i is field i of its column; w = (q - zero - 1) scale of the group of i. Gives [out, in]."""
    prefix = name[: -len("qweight")]
    words, zeros = _array(checkpoint, name), _array(checkpoint, prefix + "qzeros")
    scales = _array(checkpoint, found.scales).astype(np.float32)
    out_features, in_features = found.shape
    bits = 32 * words.shape[0] // in_features
    groups = scales.shape[0]
    if f"{prefix}g_idx" in getattr(checkpoint, "names", ()):
        group = _array(checkpoint, f"{prefix}g_idx").astype(np.int64)
    else:
        group = np.arange(in_features) // -(-in_features // groups)
    if group.size and not 0 <= int(group.min()) <= int(group.max()) < groups:
        raise ContainerError(
            f"tensor {brief(prefix + 'g_idx')} names groups {int(group.min())} to {int(group.max())}, expected 0 to "
            f"{groups - 1}"
        )
    numbers = _fields(words, bits).reshape(words.shape[0], out_features, 32 // bits)
    q = np.moveaxis(numbers, 2, 1).reshape(in_features, out_features)
    zero = _fields(zeros, bits).reshape(zeros.shape[0], -1)[:, :out_features]
    # The first version of the format stores each zero point less one.
    offset = (zero + 1)[group]
    return np.ascontiguousarray(((q - offset) * scales[group]).T.astype(np.float32))


def _fields(words: NDArray[Any], bits: int) -> NDArray[np.int64]:
    """Split words into fields, the lowest first: int32 [R, C] -> [R, C * 32 / bits]."""
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    fields = (unsigned[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return fields.reshape(*words.shape[:-1], -1).astype(np.int64)


READERS: tuple[tuple[str, Callable[[Source, str, Quantisation], NDArray[np.float32]]], ...] = (
    ("MXFP4", _read_mxfp4),
    ("GPTQ", _read_gptq),
)


def formats(found: Mapping[str, Quantisation]) -> Iterator[tuple[str, int]]:
    """Name each format of packed tensors with their count, in the order of the file."""
    counts: dict[str, int] = {}
    for one in found.values():
        if one.part == "packed":
            counts[one.format] = counts.get(one.format, 0) + 1
    return iter(counts.items())
