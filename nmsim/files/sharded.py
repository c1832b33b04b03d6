"""Where a checkpoint's tensors are: one safetensors file, or shards and the index that names them."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmsim.errors import ContainerError, brief
from nmsim.files.safetensors import CODE_OF_DTYPE, RawTensor, SafetensorsReader, TensorInfo, loads_strict
from nmsim.support.sources import read_bytes

INDEX_SUFFIX = ".safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint.

    Parameters
    ----------
    path : Path
        As the user named it.
    files : tuple of SafetensorsReader
        One, or all shards in the order of their names.
    index_path : Path or None
        The index, when there is one.
    index : dict
        Its content, or empty.
    """

    path: Path
    files: tuple[SafetensorsReader, ...]
    index_path: Path | None
    index: dict[str, Any]

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.stored_bytes for file in self.files for info in file.tensors.values())

    @property
    def paths(self) -> list[Path]:
        """Paths of all files."""
        return [file.path for file in self.files]

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return [name for file in self.files for name in file.tensors]

    @functools.cached_property
    def file_of(self) -> dict[str, SafetensorsReader]:
        """Name of a tensor -> the file that holds it."""
        return {name: file for file in self.files for name in file.tensors}

    def array(self, name: str) -> NDArray[Any] | RawTensor:
        """View a tensor of any file."""
        return self.file_of[name].array(name)


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Open a `.safetensors` file, an index, or a folder with an index, and check every header and the index.

    Raises
    ------
    ContainerError
        A shard that is missing or damaged; a tensor that the index and its shard do not agree on.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from nmsim import save_file
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> save_file({"x": np.zeros(3)}, path)
    >>> with open_checkpoint(path) as checkpoint:
    ...     checkpoint.names, checkpoint.total_bytes
    (['x'], 24)
    """
    path = _only_file(Path(path))
    index_path = _find_index(path)
    with contextlib.ExitStack() as stack:
        if index_path is None:
            yield Checkpoint(path, (stack.enter_context(SafetensorsReader(path)),), None, {})
            return
        index = _read_index(index_path)
        weight_map: dict[str, str] = index["weight_map"]
        files = []
        for shard in sorted(set(weight_map.values())):
            shard_path = index_path.parent / shard
            if not shard_path.exists():
                holds = sum(found == shard for found in weight_map.values())
                raise ContainerError(
                    f"{index_path}: shard {brief(shard)} of {holds} tensors is missing, expected the file "
                    f"{shard_path}"
                )
            files.append(stack.enter_context(SafetensorsReader(shard_path)))
        _refuse_disagreement(index_path, weight_map, files)
        yield Checkpoint(path, tuple(files), index_path, index)


class HeldTensors(SafetensorsReader):
    """Tensors that are in memory already, read as those of a file.

    Parameters
    ----------
    path : path
        Where they were loaded from, for errors; it is not opened.
    arrays : mapping of str to array
        Of dtypes that the safetensors format knows.

    Raises
    ------
    ContainerError
        An array of another dtype.

    Examples
    --------
    >>> held = HeldTensors("model.gguf", {"x": np.arange(3)})
    >>> held.tensors["x"].dtype, held.array("x").tolist(), held.where("x")
    ('I64', [0, 1, 2], "model.gguf: tensor 'x'")
    """

    def __init__(self, path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
        self.path, self.metadata, self.data_start = Path(path), {}, 0
        self._arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self.tensors: dict[str, TensorInfo] = {}
        begin = 0
        for name, array in self._arrays.items():
            code = CODE_OF_DTYPE.get(array.dtype.name)
            if code is None:
                raise ContainerError(
                    f"{path}: tensor {brief(name)}: dtype {array.dtype.name}, expected one of {', '.join(CODE_OF_DTYPE)}"
                )
            self.tensors[name] = TensorInfo(name, code, array.shape, begin, begin + array.nbytes)
            begin += array.nbytes

    def close(self) -> None:
        """Nothing is open."""

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Copy a tensor's bytes."""
        return self._bytes(name).copy()

    def read(self, name: str, begin: int, target: NDArray[Any]) -> NDArray[Any]:
        """Fill a contiguous array with bytes of a tensor, from its byte `begin` on; gives the array back."""
        raw = target.reshape(-1).view(np.uint8)
        raw[:] = self._bytes(name)[begin : begin + len(raw)]
        return target

    def where(self, name: str) -> str:
        """Say where a tensor is, for errors: file and tensor."""
        return f"{self.path}: tensor {brief(name)}"

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        return self._arrays[name].reshape(-1).view(np.uint8)


def has_shards(path: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint is shards and an index, and not one file.

    Raises
    ------
    ContainerError
        A folder with several indexes, or with no weights.

    Examples
    --------
    >>> has_shards("model.safetensors"), has_shards("model.safetensors.index.json")
    (False, True)
    """
    return _find_index(_only_file(Path(path))) is not None


def index_text(index: Mapping[str, Any], weight_map: Mapping[str, str], total_bytes: int) -> str:
    """Write an index anew: other entries stay, the tensors and their total are replaced."""
    extra = index.get("metadata", {})
    return (
        json.dumps(
            {**index, "metadata": {**extra, "total_size": total_bytes}, "weight_map": dict(weight_map)},
            indent=2,
        )
        + "\n"
    )


def _only_file(path: Path) -> Path:
    """The one weight file of a folder that holds no index; anything else as it is."""
    if not path.is_dir() or any(path.glob("*" + INDEX_SUFFIX)):
        return path
    found = sorted(path.glob("*.safetensors"))
    return found[0] if len(found) == 1 else path


def _find_index(path: Path) -> Path | None:
    if path.is_dir():
        found = sorted(path.glob("*" + INDEX_SUFFIX))
        if len(found) != 1:
            raise ContainerError(
                f"{path}: holds {len(found)} files *{INDEX_SUFFIX}, expected exactly one, or one *.safetensors file "
                "alone (or name a file)"
            )
        return found[0]
    return path if path.suffix == ".json" else None


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = loads_strict(read_bytes(path, expected="an index").decode())
    except json.JSONDecodeError as error:
        raise ContainerError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:
        if isinstance(error, ContainerError):
            raise
        raise ContainerError(f"{path}: is no JSON: {error}") from None
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise ContainerError(
            f"{path}: expected an object with a 'weight_map' from tensor names to shard files"
        )
    if not isinstance(index.get("metadata", {}), dict):
        raise ContainerError(f"{path}: metadata is {brief(index['metadata'])}, expected an object")
    for name, shard in index["weight_map"].items():
        # A path in an index could name a file outside the folder of the checkpoint.
        plain = (
            isinstance(shard, str) and Path(shard).name == shard and "\\" not in shard and "\0" not in shard
        )
        if not plain or not shard.endswith(".safetensors"):
            raise ContainerError(
                f"{path}: tensor {brief(name)} lies in {brief(shard)}, expected the plain name of a .safetensors file"
            )
    return index


def _refuse_disagreement(
    index_path: Path, weight_map: Mapping[str, str], files: list[SafetensorsReader]
) -> None:
    for file in files:
        for name in file.tensors:
            stated = weight_map.get(name)
            if stated != file.path.name:
                where = f"in shard {brief(stated)}" if stated else "nowhere"
                raise ContainerError(
                    f"{file.where(name)}: the index {index_path.name} has it {where}, expected {brief(file.path.name)}"
                )
    held = {file.path.name: file.tensors for file in files}
    for name, shard in weight_map.items():
        if name not in held[shard]:
            raise ContainerError(
                f"{index_path}: tensor {brief(name)} is missing from shard {brief(shard)}, which holds "
                f"{len(held[shard])} others"
            )
