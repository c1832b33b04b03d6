"""From any format that is read to any that is written, block by block; nothing is pruned on the way."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nmsim.errors import ContainerError, PatternError, brief
from nmsim.files import atomic
from nmsim.files.checkpoint import Counter, Progress, TensorReport
from nmsim.files.container import FORMAT_KEY, FORMAT_VERSION, PackedEntry
from nmsim.files.output import Output, claimed
from nmsim.files.sharded import INDEX_SUFFIX, index_text
from nmsim.format import FormatLike, SparseFormat, sparse_format
from nmsim.interchange import config as configs
from nmsim.interchange import marlin_24, maskllm, packed, sparse_24_bitmask, sparse_bitmask
from nmsim.interchange.formats import DENSE, FORMATS, open_source
from nmsim.interchange.streaming import OutTensor, unchanged, write_file
from nmsim.interchange.tensors import DenseTensor, Source
from nmsim.interchange.zeros import GROUPS, Survey, stated_pattern, survey
from nmsim.pattern import Pattern

COMPRESSED_TENSORS = (sparse_24_bitmask.FORMAT, sparse_bitmask.FORMAT)
SINGLE_FILE = "model.safetensors"
"""Name of the weights in a new folder, if the source is a single file."""
FIXED = {sparse_24_bitmask.FORMAT: sparse_24_bitmask.PATTERN, maskllm.FORMAT: sparse_24_bitmask.PATTERN}
"""Formats that hold one pattern only."""


@dataclass(frozen=True)
class ConvertReport:
    """What became of a conversion; bytes are those of tensors, without headers.

    Parameters
    ----------
    source, target : Path
    source_format, target_format : str
        Keys of `FORMATS`.
    tensors : tuple of TensorReport
        `kept_as_is` says why a tensor is not packed in the target; "" if it is.
    patterns : dict of str to str
        N:M of each packed tensor, N kept, if the target needs one.
    negative_zeros : int
        Zeros with a sign in packed tensors, which the target stores as 0.
    config : dict or None
        The `config.json` for the target; None if there is nothing to say. It is written if the target is a folder.
    """

    source: Path
    target: Path
    source_format: str
    target_format: str
    tensors: tuple[TensorReport, ...]
    patterns: dict[str, str]
    negative_zeros: int
    config: dict[str, Any] | None

    @property
    def packed(self) -> list[TensorReport]:
        """The tensors that are packed in the target."""
        return [tensor for tensor in self.tensors if not tensor.kept_as_is]


@dataclass
class _Plan:
    """What is to be written of each tensor, settled before anything is."""

    outs: list[OutTensor] = field(default_factory=list)
    entries: dict[str, list[PackedEntry]] = field(default_factory=dict)
    reports: list[TensorReport] = field(default_factory=list)
    patterns: dict[str, str] = field(default_factory=dict)
    packed_elems: int = 0
    nonzeros: int = 0
    negative_zeros: int = 0
    dense_matrices: list[str] = field(default_factory=list)


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    source_format: str | None = None,
    format: FormatLike | None = None,
    weights: str | os.PathLike[str] | None = None,
    include: Sequence[str] | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> ConvertReport:
    """Write a checkpoint in another format.

    Nothing is pruned: a tensor whose zeros do not follow the pattern stays dense, or is refused if `include` names it.
    Without `include`, matrices named `*.weight` are packed. For `sparse-bitmask` these are the ones that get smaller.

    Parameters
    ----------
    source : path
        A `.safetensors` file, an index or a folder with one; a `.npz` or a `.gguf` file.
    target : path
        A file, or a new folder, which gets `config.json` too. Shards need a folder.
    to : str, optional
        A key of `FORMATS` that is written. By default `maskllm` for a `.npz`, else `dense`.
    source_format : str, optional
        A key of `FORMATS`; found out if absent.
    format : SparseFormat, Pattern or str, optional
        N:M with N kept, and encoding and packing of nmsim's own files. By default the zeros of each tensor decide.
    weights : path, optional
        The checkpoint that MaskLLM masks belong to.
    include : sequence of str, optional
        Shell patterns of tensors that must be packed.
    progress : function, optional
        Called with a name, the bytes done and the bytes in all.
    force : bool
        Replace a target file. A folder that is not empty is never replaced, nor is the source.

    Returns
    -------
    ConvertReport

    Raises
    ------
    ContainerError
        A damaged source, a format that is not known or not written, or a target that cannot be written.
    PatternError
        Zeros that do not follow the pattern, or do not tell it.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from nmsim import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_file({"fc.weight": np.tile(np.array([1, 0, 0, 2], np.float16), (8, 4))}, folder / "a.safetensors")
    >>> report = convert_checkpoint(folder / "a.safetensors", folder / "b.safetensors", to="sparse-24-bitmask")
    >>> [(tensor.name, tensor.dense_bytes, tensor.total_bytes) for tensor in report.packed]
    [('fc.weight', 256, 160)]
    """
    path, destination = Path(source), Path(target)
    to = _target_format(to, destination)
    asked = _asked(format, to)
    output = convert_output(destination, to)
    with (
        open_source(path, source_format, weights=None if weights is None else Path(weights)) as opened,
        claimed(output, force=force, sources=opened.paths),
    ):
        if to == DENSE == opened.format:
            raise ContainerError(f"{path}: is dense already, expected another format to write (`--to`)")
        if opened.index_name and output.kind == "file" and to != maskllm.FORMAT:
            raise ContainerError(f"{target}: the source has shards, expected the name of a folder to write")
        passes = 1 if to == DENSE else 3
        counter = Counter(passes * sum(tensor.stored_bytes for tensor in opened.tensors), progress)
        plan = _plan(opened, to, asked, include, counter)
        config = _config(opened, to, plan)
        _write(opened, destination, to, plan, config, counter, force)
        counter.done_bytes = counter.total_bytes
        counter.tell("")
    return ConvertReport(
        path, destination, opened.format, to, tuple(plan.reports), plan.patterns, plan.negative_zeros, config
    )


def _target_format(to: str | None, target: Path) -> str:
    by_name = maskllm.FORMAT if target.suffix == ".npz" else DENSE
    to = by_name if to is None else to
    written = [name for name, format in FORMATS.items() if format.writes]
    if to not in written:
        problem = "is read only" if to in FORMATS else "does not exist"
        raise ContainerError(f"format {brief(to)} {problem}, expected one of {', '.join(written)}")
    if (to == maskllm.FORMAT) != (target.suffix == ".npz"):
        raise ContainerError(
            f"{target}: for format {to} expected a name that {'ends' if to == maskllm.FORMAT else 'does not end'} in .npz"
        )
    return to


def _asked(format: FormatLike | None, to: str) -> SparseFormat | None:
    if format is None:
        return SparseFormat(FIXED[to]) if to in FIXED else None
    asked = sparse_format(format)
    if to in FIXED and asked.pattern != FIXED[to]:
        raise PatternError(
            f"pattern {asked.pattern} for {to}: expected {FIXED[to]}, the only one that it holds"
        )
    if to == DENSE:
        raise PatternError(f"pattern {asked.pattern} for {DENSE}: expected none, because no tensor is packed")
    return asked


def convert_output(target: Path, to: str | None) -> Output:
    """Say what a conversion writes: a file if its name ends like one, else a new folder.

    Parameters
    ----------
    target : Path
    to : str or None
        As for `convert_checkpoint`.

    Raises
    ------
    ContainerError
        A format that is not written, or a name that ends in the suffix of another kind of file.
    """
    if _target_format(to, target) == maskllm.FORMAT or target.suffix == ".safetensors":
        return Output(target)
    if target.suffix in (".json", ".gguf", ".npz"):
        raise ContainerError(
            f"{target}: expected a name that ends in .safetensors, or the name of a new folder"
        )
    return Output(target, "new folder")


def _plan(
    source: Source, to: str, asked: SparseFormat | None, include: Sequence[str] | None, counter: Counter
) -> _Plan:
    """Settle what becomes of every tensor; matrices are read once to count their zeros."""
    plan = _Plan()
    stated = None if asked else configs.stated_structure(source.config, source.paths[0].parent)
    refusals: list[PatternError] = []
    for tensor in source.tensors:
        counter.tell(tensor.name)
        # A tensor that the user names must be packed. One that only the default rule takes may stay dense.
        named = include is not None and any(fnmatchcase(tensor.name, glob) for glob in include)
        reason = "target is dense" if to == DENSE else _why_not(tensor, include, named)
        outs: list[OutTensor] = []
        if not reason:
            try:
                outs = _packed(plan, tensor, to, asked, stated)
            except PatternError as error:
                if named:
                    raise
                reason = str(error).removeprefix(f"{tensor.where}: ")
                refusals.append(error)
            tensor.release()
        if reason:
            outs = [] if to == maskllm.FORMAT else [unchanged(tensor)]
            if len(tensor.shape) == 2 and tensor.name.endswith(".weight"):
                plan.dense_matrices.append(tensor.name)
        plan.outs += outs
        counter.done_bytes += tensor.stored_bytes * (to != DENSE)
        values = next((out.stored_bytes for out in outs if out.dtype == tensor.dtype), 0)
        everything = sum(out.stored_bytes for out in outs)
        plan.reports.append(
            TensorReport(
                tensor.name,
                tensor.dtype,
                tensor.shape,
                tensor.dense_bytes,
                values,
                everything - values,
                reason,
            )
        )
    if to != DENSE and not any(not report.kept_as_is for report in plan.reports):
        if len(refusals) == 1 or (refusals and stated):
            raise refusals[0]
        why = (
            str(refusals[0])
            if refusals
            else f"{len(plan.reports)} tensors, no matrix named *.weight among them"
        )
        raise PatternError(f"{source.path}: no tensor can be packed as {to}, expected at least one ({why})")
    return plan


def _why_not(tensor: DenseTensor, include: Sequence[str] | None, named: bool) -> str:
    """Why a tensor is not even looked at; "" if it is."""
    if include is not None and not named:
        return "name is not included"
    if not tensor.is_matrix:
        return f"is {tensor.dtype} of {len(tensor.shape)} dimensions, no matrix of values"
    if not named and not tensor.name.endswith(".weight"):
        return "name does not end in .weight"
    return ""


def _packed(
    plan: _Plan, tensor: DenseTensor, to: str, asked: SparseFormat | None, stated: tuple[str, str] | None
) -> list[OutTensor]:
    """Plan a packed tensor.

    Raises
    ------
    PatternError
        Zeros that do not allow it.
    """
    # Every M of interest is counted in one reading, because a reading costs more than the counts.
    groups = GROUPS if asked is None else ()
    if stated is not None:
        groups = tuple(sorted({*groups, Pattern.parse(stated[0]).m}))
    found = survey(tensor, asked.pattern if asked else None, groups=groups)
    if found.first is not None and asked is not None:
        row, group = found.first
        raise PatternError(
            f"{tensor.where}: {found.violations} groups have more than {asked.pattern.n} non-zeros of {asked.pattern.m}, "
            f"the first in row {row}, group {group}; expected {asked.pattern}"
        )
    pattern = asked.pattern if asked else _pattern_of(tensor, found, stated, to)
    if to == sparse_24_bitmask.FORMAT:
        outs = sparse_24_bitmask.write(tensor)
    elif to == sparse_bitmask.FORMAT:
        if asked is None and sparse_bitmask.packed_bytes(tensor, found.nonzeros) >= tensor.dense_bytes:
            raise PatternError(f"{tensor.where}: would take more bytes packed than dense")
        outs = sparse_bitmask.write(tensor, found)
    elif to == maskllm.FORMAT:
        outs = [maskllm.write(tensor)]
    else:
        assert pattern is not None, "one is asked for, or found"
        outs, entry = packed.write(tensor, asked or SparseFormat(pattern))
        plan.entries.setdefault(tensor.shard, []).append(entry)
    if pattern is not None:
        plan.patterns[tensor.name] = str(pattern)
    plan.packed_elems += math.prod(tensor.shape)
    plan.nonzeros += found.nonzeros
    plan.negative_zeros += found.negative_zeros
    return outs


def _pattern_of(
    tensor: DenseTensor, found: Survey, stated: tuple[str, str] | None, to: str
) -> Pattern | None:
    """The N:M that the zeros tell, N kept; a stated one only says which M to look at."""
    if stated is not None:
        text, where = stated
        return stated_pattern(text, found, where=f"{where}, tensor {brief(tensor.name)}")
    pattern = found.smallest()
    if pattern is None and to == packed.FORMAT:
        raise PatternError(
            f"{tensor.where}: no N:M with M of {', '.join(map(str, GROUPS))} holds; expected zeros, or a pattern (`-p`)"
        )
    return pattern


def _config(source: Source, to: str, plan: _Plan) -> dict[str, Any] | None:
    """The `config.json` of the target, or None if it would be empty."""
    sparsity = None
    if to in COMPRESSED_TENSORS:
        patterns = set(plan.patterns.values())
        sparsity = configs.sparsity_config(
            to,
            dense=plan.dense_matrices,
            sparsity=1 - plan.nonzeros / max(1, plan.packed_elems),
            structure=patterns.pop() if len(patterns) == 1 else "unstructured",
        )
    quantized = "int-quantized" if source.format == marlin_24.FORMAT else None
    return configs.rewritten(source.config, sparsity=sparsity, quantized_format=quantized) or None


def _write(
    source: Source,
    target: Path,
    to: str,
    plan: _Plan,
    config: dict[str, Any] | None,
    counter: Counter,
    force: bool,
) -> None:
    """Write all files; each takes its name when it is complete."""
    # Packing reads a tensor once for each part, so that progress follows the bytes written from here on.
    remaining = counter.total_bytes - counter.done_bytes
    whole = max(1, sum(out.stored_bytes for out in plan.outs))
    done = counter.done_bytes
    written = 0

    def tell(out: OutTensor) -> None:
        nonlocal written
        written += out.stored_bytes
        counter.done_bytes = done + remaining * written // whole
        counter.tell(out.name)

    if to == maskllm.FORMAT:
        maskllm.write_archive(target, plan.outs, force=force, sources=source.paths, tell=tell)
        return

    def write_one(path: Path, shard: str, outs: Iterable[OutTensor]) -> int:
        free = dict(source.metadata.get(shard, {}))
        entries = plan.entries.get(shard, [])
        if entries:
            free |= {FORMAT_KEY: FORMAT_VERSION} | {entry.key: entry.to_json() for entry in entries}
        return write_file(path, outs, metadata=free, force=force, sources=source.paths, tell=tell)

    if target.suffix == ".safetensors":
        write_one(target, source.tensors[0].shard if source.tensors else "", plan.outs)
        return
    with atomic.new_folder(target) as folder:
        _write_folder(source, folder, plan, write_one)
        if config is not None:
            with atomic.new_file(folder / configs.NAME) as stream:
                stream.write(configs.config_text(config).encode())


def _write_folder(
    source: Source, folder: Path, plan: _Plan, write_one: Callable[[Path, str, list[OutTensor]], int]
) -> None:
    """Write a file, or shards and their index, into a folder."""
    if not source.index_name:
        write_one(folder / SINGLE_FILE, source.tensors[0].shard if source.tensors else "", plan.outs)
        return
    shards: dict[str, list[OutTensor]] = {}
    where: dict[str, str] = {}
    for out in plan.outs:
        # The parts of one tensor may have lain in several shards, so that a name must be free in all of them.
        if out.name in where:
            raise ContainerError(
                f"{out.of.where}: the name {brief(out.name)} is taken by shard {brief(where[out.name])}"
            )
        where[out.name] = out.of.shard
        shards.setdefault(out.of.shard, []).append(out)
    total_bytes = sum(write_one(folder / shard, shard, outs) for shard, outs in shards.items())
    name = source.index_name if source.index_name.endswith(INDEX_SUFFIX) else SINGLE_FILE + ".index.json"
    with atomic.new_file(folder / name) as stream:
        stream.write(index_text(source.index, where, total_bytes).encode())
