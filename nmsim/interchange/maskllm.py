"""MaskLLM masks: a numpy `.npz` of bits, one array per pruned parameter, beside a checkpoint that has the weights.

The key is the name of the parameter and `.mask`. The value is U8, one dimension: `np.packbits` of the flattened mask, most
significant bit first, zeros up to a whole byte. 1 is kept, and two of four are kept along the rows. No shape is stored, so a
reader needs the checkpoint. Source: NVlabs/MaskLLM, `tool_compress_mask.py`, `eval_llama_ppl.py`.
"""

import contextlib
import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import ContainerError, brief
from nmsim.files import atomic
from nmsim.interchange.sparse_24_bitmask import NIBBLE_COUNTS, PATTERN
from nmsim.interchange.streaming import OutTensor
from nmsim.interchange.tensors import Block, DenseTensor, bits_of
from nmsim.interchange.zeros import chosen
from nmsim.support.sources import open_regular
from nmsim.units import bits_to_bytes

FORMAT = "maskllm"
SUFFIX = ".mask"
NPY = ".npy"


@contextlib.contextmanager
def open_masks(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a `.npz` file; damage becomes an error that names it."""
    try:
        with io.BufferedReader(open_regular(path)) as stream, zipfile.ZipFile(stream) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ContainerError(f"{path}: is no readable .npz archive: {error}") from error
    except OSError as error:
        raise ContainerError(f"{path}: cannot be read: {error.strerror or error}") from error


def read(archive: zipfile.ZipFile, path: Path, weights: Iterable[DenseTensor]) -> list[DenseTensor]:
    """Lay the masks of an archive on the weights they belong to; other tensors stay as they are.

    Parameters
    ----------
    archive : ZipFile
        From `open_masks`, open while blocks are read.
    path : Path
        For errors.
    weights : DenseTensor
        All tensors of the checkpoint.

    Raises
    ------
    ContainerError
        A mask of no weight, or whose length does not fit its weight.
    """
    entries = archive.namelist()
    tensors = list(weights)
    known = {tensor.name for tensor in tensors}
    masked = set()
    for entry in entries:
        name = entry.removesuffix(NPY).removesuffix(SUFFIX)
        if entry != f"{name}{SUFFIX}{NPY}" or name not in known or entries.count(entry) > 1:
            raise ContainerError(
                f"{path}: entry {brief(entry)}: expected NAME{SUFFIX}{NPY} once, with the NAME of a tensor of the checkpoint"
            )
        masked.add(name)
    return [_masked(archive, path, t) if t.name in masked else t for t in tensors]


def _masked(archive: zipfile.ZipFile, path: Path, tensor: DenseTensor) -> DenseTensor:
    where = f"{path}: mask of {brief(tensor.name)}"
    elems = math.prod(tensor.shape)
    if not tensor.is_matrix or tensor.shape[1] % PATTERN.m:
        raise ContainerError(
            f"{where}: the weight is {tensor.dtype} {list(tensor.shape)}, expected a matrix with columns in fours"
        )
    entry = f"{tensor.name}{SUFFIX}{NPY}"
    _check_header(archive, entry, where, bits_to_bytes(elems))

    def blocks() -> Iterator[Block]:
        # The whole mask is small: a bit per element. It is checked before the first block is given.
        bits = _bits(archive, entry)
        wrong = NIBBLE_COUNTS[bits[: elems // 8]] != 0x22
        if elems % 8:
            wrong = np.append(wrong, NIBBLE_COUNTS[bits[-1]] != 0x20)
        if wrong.any():
            byte = int(np.argmax(wrong))
            raise ContainerError(
                f"{where}: byte {byte} is {int(bits[byte]):#04x}, expected 2 bits set for each 4 columns, 0 behind the last"
            )
        begin = 0
        for block in tensor.blocks():
            size = block.values.size
            part = bits[begin // 8 : bits_to_bytes(begin + size)]
            kept = np.unpackbits(part, count=size).view(np.bool_).reshape(block.values.shape)
            values = block.values.copy()
            bits_of(values)[~kept] = 0
            yield Block(values, kept)
            begin += size

    return dataclasses.replace(tensor, blocks=blocks, where=where)


def _check_header(archive: zipfile.ZipFile, entry: str, where: str, expected_bytes: int) -> None:
    """Refuse an array of another type or length before its data is unpacked."""
    with archive.open(entry) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = read_header[version](stream)
        except (ValueError, KeyError) as error:
            raise ContainerError(f"{where}: is no numpy array: {' '.join(str(error).split())}") from None
    if dtype != np.uint8 or shape != (expected_bytes,):
        raise ContainerError(
            f"{where}: is {dtype} {list(shape)}, expected uint8 [{expected_bytes}] for its weight"
        )


def _bits(archive: zipfile.ZipFile, entry: str) -> NDArray[np.uint8]:
    with archive.open(entry) as stream:
        try:
            bits: NDArray[np.uint8] = np.lib.format.read_array(stream, allow_pickle=False)
        except ValueError as error:
            raise ContainerError(
                f"{archive.filename}: entry {brief(entry)}: {' '.join(str(error).split())}"
            ) from None
    return bits


def write(tensor: DenseTensor) -> OutTensor:
    """Plan the bits of a weight whose groups of 4 have at most two non-zeros; groups with fewer are completed."""

    def blocks() -> Iterator[NDArray[np.uint8]]:
        row = 0
        for block in tensor.blocks():
            # A block has a multiple of eight rows, so that only the last one ends within a byte.
            yield np.packbits(chosen(block, PATTERN, first_row=row))
            row += len(block.values)

    return OutTensor(tensor.name + SUFFIX, "U8", (bits_to_bytes(math.prod(tensor.shape)),), blocks, tensor)


def write_archive(
    path: Path,
    tensors: Iterable[OutTensor],
    *,
    force: bool = False,
    sources: Iterable[Path] = (),
    tell: Callable[[OutTensor], None] = lambda tensor: None,
) -> int:
    """Write an `.npz` archive as `np.savez_compressed` does, block by block; gives back the bytes of all arrays."""
    total = 0
    with (
        atomic.new_file(path, force=force, sources=sources) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for tensor in tensors:
            with archive.open(f"{tensor.name}{NPY}", "w", force_zip64=True) as entry:
                header = {"descr": "|u1", "fortran_order": False, "shape": tuple(tensor.shape)}
                np.lib.format.write_array_header_1_0(entry, header)
                for block in tensor.blocks():
                    entry.write(block.tobytes())
            total += tensor.stored_bytes
            tensor.of.release()
            tell(tensor)
    return total
