"""Which tensors of a checkpoint are pruned and along which axis, and why the others are not."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nmsim import dtypes
from nmsim.errors import ContainerError, brief, brief_names
from nmsim.files import quantised
from nmsim.files.roles import KINDS, Role, classify
from nmsim.files.safetensors import TensorInfo
from nmsim.files.sharded import Checkpoint
from nmsim.pattern import Pattern
from nmsim.support.sources import read_bytes

CONFIG_NAME = "config.json"
DEFAULT_DTYPES = tuple(
    kind.container_code for kind in dtypes.TYPES if kind.kind == "float" or kind.container_code == "I8"
)


@dataclass(frozen=True)
class Left:
    """Why a tensor is left as it is: a group for sums, and the reason."""

    group: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """What a user asks for: the tensors to prune, and the axis.

    With neither `include` nor `exclude` these are the linear weights of the body, as `nmsim.files.roles` finds them. They
    are floating or int8, and have at least M elements along the pruned axis.

    Parameters
    ----------
    include : sequence of str, optional
        Shell patterns (`*`, `?`, `[ab]`), case counts. They replace all conditions of the default on
        names, roles, dtypes and lengths. A tensor that cannot be packed still stays as it is. It has fewer than two
        dimensions, a dtype that nmsim does not prune, or a packed quantised format.
    exclude : sequence of str, optional
        Shell patterns of tensors to leave alone, on top of either rule.
    axis : int, optional
        Axis along which groups run. By default that of the in features of each tensor.

    Examples
    --------
    >>> embedding = TensorInfo("model.embed_tokens.weight", "BF16", (8, 8), 0, 128)
    >>> layer = TensorInfo("layers.0.mlp.up_proj.weight", "BF16", (8, 8), 128, 256)
    >>> choice = Selection().among([embedding, layer])
    >>> choice.why_not(embedding, Pattern(2, 4)).reason
    "embedding: named 'embed_tokens'"
    >>> choice.why_not(layer, Pattern(2, 4)), choice.axis(layer)
    (None, 1)
    """

    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    axis: int | None = None

    def __post_init__(self) -> None:
        for what, globs in (("include", self.include), ("exclude", self.exclude)):
            if isinstance(globs, str) or not all(isinstance(glob, str) for glob in globs or ()):
                raise ContainerError(
                    f"{what} is {brief(globs)}: expected a sequence of str, such as ['*.weight']"
                )

    def among(self, tensors: Iterable[TensorInfo], config: Mapping[str, Any] | None = None) -> "Choice":
        """Apply the rule to all tensors of a checkpoint."""
        infos = tuple(tensors)
        return Choice(self, classify(infos, config), {info.name: info for info in infos}, config)

    def of(self, checkpoint: Checkpoint) -> "Choice":
        """Apply the rule to an open checkpoint, with the `config.json` beside it.

        Raises
        ------
        ContainerError
            A `config.json` that cannot be read.
        """
        return self.among(
            (info for file in checkpoint.files for info in file.tensors.values()), read_config(checkpoint)
        )


@dataclass(frozen=True)
class Choice:
    """A rule, applied to the tensors of a checkpoint.

    Parameters
    ----------
    rule : Selection
    roles : dict of str to Role
    tensors : dict of str to TensorInfo
    config : mapping or None
        The model's configuration.
    """

    rule: Selection
    roles: Mapping[str, Role]
    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any] | None = None

    def why_not(self, info: TensorInfo, pattern: Pattern) -> Left | None:
        """Say why a tensor is left as it is; None if it is to be pruned.

        Raises
        ------
        ContainerError
            A tensor that is included by name, but whose axis is not known.
        """
        rule, role = self.rule, self.roles[info.name]
        # Bytes that hold several numbers are never pruned, whoever asks for them.
        if role.kind in ("quantised", "scales"):
            return Left(KINDS[role.kind], role.reason)
        if len(info.shape) < 2:
            return Left(KINDS[role.kind], role.reason)
        if info.dtype not in dtypes.BY_CONTAINER_CODE:
            return Left("dtype", f"dtype {info.dtype} is not pruned")
        named = self.named(info)
        if named is not None:
            return named
        if rule.include is not None:
            if role.kind == "ambiguous" and rule.axis is None:
                raise ContainerError(
                    f"tensor {brief(info.name)} is {role.reason}; expected --axis with --include, or --exclude of it"
                )
            return None
        if not role.is_pruned:
            return Left(KINDS[role.kind], role.reason)
        if info.dtype not in DEFAULT_DTYPES:
            return Left("dtype", f"dtype {info.dtype} is packed only when included by name")
        axis = self.axis(info)
        if -len(info.shape) <= axis < len(info.shape) and info.shape[axis] < pattern.m:
            return Left(
                "fewer than M elements",
                f"has {info.shape[axis]} elements along axis {axis}, fewer than M = {pattern.m}",
            )
        if role.period and role.period % pattern.m and rule.axis is None:
            return Left(
                "fewer than M elements",
                f"stacks matrices of {role.period} in features, expected a multiple of M = {pattern.m}",
            )
        return None

    def named(self, info: TensorInfo) -> Left | None:
        """Say why the user's globs leave a tensor out; None if they do not."""
        for glob in self.rule.exclude or ():
            if fnmatchcase(info.name, glob):
                return Left("excluded", f"name matches {brief(glob)}")
        include = self.rule.include
        if include is not None and not any(fnmatchcase(info.name, glob) for glob in include):
            return Left("not included", "name is not included")
        return None

    def axis(self, info: TensorInfo) -> int:
        """Axis along which the groups of a tensor run."""
        if self.rule.axis is not None:
            return self.rule.axis
        found = self.roles[info.name].axis
        return len(info.shape) - 1 if found is None else found

    def weights(self, info: TensorInfo) -> int:
        """Count the weights of a tensor: of packed bytes those that they hold, none of scales."""
        role = self.roles[info.name]
        if role.kind == "scales":
            return 0
        shape = role.quantisation.shape if role.quantisation and role.quantisation.shape else info.shape
        return math.prod(shape)

    def records(self, pattern: Pattern) -> list[dict[str, Any]]:
        """Give every decision with its reason, as `--explain` prints them."""
        records = []
        for info in self.tensors.values():
            left = self.why_not(info, pattern)
            records.append(
                {
                    "tensor": info.name,
                    "dtype": info.dtype,
                    "shape": list(info.shape),
                    "kind": self.roles[info.name].kind,
                    "pruned": left is None,
                    "axis": self.axis(info) if left is None else None,
                    "reason": self.included_reason(info) if left is None else left.reason,
                    "weights_elems": self.weights(info),
                    "dense_bytes": info.stored_bytes,
                }
            )
        return records

    def included_reason(self, info: TensorInfo) -> str:
        """Say why a tensor is pruned."""
        role = self.roles[info.name]
        return role.reason if self.rule.include is None else f"included by name ({role.reason})"

    def refuse_nothing(self, path: object) -> None:
        """Stop with an error, since the rule chose no tensor; it names what the tensors are.

        Raises
        ------
        ContainerError
            Always.
        """
        names, include = list(self.tensors), self.rule.include
        shown = brief_names(names, most=2)
        packed = list(quantised.formats({n: r.quantisation for n, r in self.roles.items() if r.quantisation}))
        if packed:
            held = ", ".join(f"{kind} ({count} tensors)" for kind, count in packed[:3])
            raise ContainerError(
                f"{path}: holds {held}, whose bytes are no weights, and nothing else to prune; expected unquantised, FP8 or "
                "INT8 weights"
            )
        if include is not None:
            matches = any(fnmatchcase(name, glob) for name in names for glob in include)
            problem = "can be packed of those that match" if matches else "matches"
            raise ContainerError(
                f"{path}: no tensor {problem} {' or '.join(map(brief, include)) or 'an empty list'}, expected at least one "
                f"of its {len(names)} tensors ({shown}) with a dtype that nmsim prunes and two dimensions or more"
            )
        kinds = list(dict.fromkeys(KINDS[role.kind] for role in self.roles.values()))
        raise ContainerError(
            f"{path}: none of its {len(names)} tensors ({shown}) is chosen ({', '.join(kinds[:3])}), expected a linear weight "
            "of the body (--include takes others by name)"
        )


def left_by_group(left: Iterable[tuple[str, str, int, int]]) -> list[dict[str, Any]]:
    """Add up what is left dense: (group, reason, weights, bytes) per tensor -> a record per group, the largest first.

    Examples
    --------
    >>> left_by_group([("head", "head: named 'lm_head'", 8, 16), ("norm", "norm: has 1 dimensions", 2, 4)])[1]["tensors"]
    1
    """
    groups: dict[str, dict[str, Any]] = {}
    for group, reason, weights_elems, dense_bytes in left:
        record = groups.setdefault(
            group, {"why": group, "tensors": 0, "weights_elems": 0, "dense_bytes": 0, "example": reason}
        )
        record["tensors"] += 1
        record["weights_elems"] += weights_elems
        record["dense_bytes"] += dense_bytes
    return sorted(groups.values(), key=lambda record: -record["dense_bytes"])


def read_config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Read the `config.json` beside a checkpoint; None if there is none.

    Raises
    ------
    ContainerError
        One that cannot be read, or is no JSON object.
    """
    folder = (checkpoint.index_path or checkpoint.files[0].path).parent
    path = Path(folder) / CONFIG_NAME
    if not path.exists():
        return None
    data = read_bytes(path, expected="the model's configuration")
    try:
        # Published configurations hold Infinity, which strict JSON has not.
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise ContainerError(
            f"{path}: is no JSON, expected the model's configuration; correct it, or move it away"
        ) from None
    if not isinstance(config, dict):
        raise ContainerError(f"{path}: is a {type(config).__name__}, expected an object; move it away")
    return config
