"""2:4 tensors of torch and torchao in safetensors files: values, and metadata in the order of a GPU. Read only.

The class `SparseSemiStructuredTensorCUTLASS` of torch is `packed` [R, K/2] and `meta` in the order of SM80. The class
`Float8Sparse2x4_2DData2DMetadataTensor` of torchao is `qdata` [R, K/2] in FP8 and `sparse_metadata` U8 [R, K/8]. Its order is
that of SM90, and a `scale` stays as it is.

A part of parameter P is named `P.packed`, `P:packed` or, for `P.weight`, `P._weight_packed`. A block that holds values and
metadata together, as cuSPARSELt makes it, is refused: its layout is not public.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import ContainerError, NmsimError, brief
from nmsim.files.safetensors import CODE_OF_DTYPE
from nmsim.interchange.parts import Held, Parts
from nmsim.interchange.tensors import Block, DenseTensor, scattered, slices
from nmsim.layouts import nvidia_mask

FORMAT = "semi-structured"
KINDS = {"packed": ("meta", "sm80"), "qdata": ("sparse_metadata", "sm90")}
"""Name of the values -> name of their metadata, and the order of its words."""
OPAQUE = "qdata_and_metadata"
PART = re.compile(rf"(?P<stem>.+?)(?P<sep>[.:]_weight_|[.:])(?P<role>{'|'.join(KINDS)}|{OPAQUE})")


def read_semi_structured(
    values: NDArray[Any], metadata: NDArray[Any], *, arch: str = "sm80"
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Make a 2:4 tensor of torch or torchao dense again.

    Parameters
    ----------
    values : array [R, K/2]
        `packed` or `qdata`.
    metadata : array
        `meta` (I16 [R, K/16], I32 [R, K/32] of 8-bit values), or `sparse_metadata` (U8 [R, K/8]).
    arch : {"sm80", "sm90"}
        Order of the words: SM80 for torch's `meta`, SM90 for torchao's `sparse_metadata`.

    Returns
    -------
    dense : array [R, K]
    kept : bool array [R, K]
        Where a value is stored.

    Raises
    ------
    ContainerError
        Values that are no matrix.
    EncodingError
        Metadata of another shape or type, or a code that no group has.

    Examples
    --------
    >>> from nmsim.layouts import nvidia_metadata
    >>> mask = np.tile([True, False, True, False], (32, 8))
    >>> dense, kept = read_semi_structured(np.ones((32, 16), np.float16), nvidia_metadata(mask))
    >>> dense[0, :4].tolist(), bool((kept == mask).all())
    ([1.0, 0.0, 1.0, 0.0], True)
    """
    if values.ndim != 2:
        raise ContainerError(f"values have shape {list(values.shape)}, expected a matrix [R, K/2]")
    rows, half = values.shape
    kept = nvidia_mask(metadata, (rows, 2 * half), arch=arch, value_bits=8 * values.dtype.itemsize)
    return scattered(values, kept), kept


def read(held: Held) -> tuple[dict[str, DenseTensor], set[str]]:
    """Find the tensors of these formats: name of the part that stands for each -> dense tensor; names of all parts.

    Raises
    ------
    ContainerError
        Values without metadata, as cuSPARSELt and hipSPARSELt keep them, or of another shape.
    """
    tensors, taken = {}, set()
    for name in held:
        match = PART.fullmatch(name)
        if match is None:
            continue
        role, separator = match["role"], match["sep"]
        values = Parts(held, {"values": name})
        if role == OPAQUE or len(values.info("values").shape) != 2:
            raise ContainerError(
                f"{values.where('values')}: holds values and metadata in one block, as cuSPARSELt and hipSPARSELt do; its "
                "layout is not public, expected values and metadata apart"
            )
        metadata, arch = KINDS[role]
        beside = f"{match['stem']}{separator}{metadata}"
        if beside not in held:
            raise ContainerError(f"{values.where('values')}: {brief(beside)} is missing, expected both")
        parts = Parts(held, {"values": name, "metadata": beside})
        dense_name = match["stem"] + (".weight" if "_weight_" in separator else "")
        tensors[name] = _dense(dense_name, parts, arch)
        taken |= {name, beside}
    return tensors, taken


def _dense(name: str, parts: Parts, arch: str) -> DenseTensor:
    info = parts.info("values")
    dtype = parts.values_dtype("values")
    # Metadata of narrow dtypes are checked by the layout; others would not even be arrays.
    if parts.info("metadata").dtype not in (CODE_OF_DTYPE[kind] for kind in ("int16", "int32", "uint8")):
        parts.refuse("metadata", f"dtype {parts.info('metadata').dtype}", "I16, I32 or U8")
    rows, columns = info.shape[0], 2 * info.shape[1]

    def blocks() -> Iterator[Block]:
        try:
            kept = nvidia_mask(
                parts.array("metadata"), (rows, columns), arch=arch, value_bits=8 * dtype.itemsize
            )
        except NmsimError as error:
            raise error.within(parts.where("metadata")) from error
        for part in slices(rows, columns, dtype.itemsize):
            values = parts.rows("values", part, columns // 2, dtype)
            yield Block(scattered(values, kept[part]), kept[part])

    return DenseTensor(
        name=name,
        dtype=info.dtype,
        shape=(rows, columns),
        blocks=blocks,
        where=parts.where("values"),
        shard=parts.file("values").path.name,
        stored_bytes=parts.stored_bytes,
    )
