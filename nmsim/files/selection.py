"""Which tensors of a checkpoint are packed, and why the others are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nmsim import dtypes
from nmsim.errors import ContainerError, brief, brief_names
from nmsim.files.safetensors import TensorInfo
from nmsim.pattern import Pattern

DEFAULT_INCLUDE = ("weight", "*.weight")
DEFAULT_EXCLUDE = ("*embed*", "*wte.weight", "*wpe.weight", "*lm_head*", "*norm*", "output.weight")
DEFAULT_DTYPES = tuple(
    kind.container_code for kind in dtypes.TYPES if kind.kind == "float" or kind.container_code == "I8"
)


@dataclass(frozen=True)
class Selection:
    """The rule by which tensors are chosen.

    With neither `include` nor `exclude` these are the weights of linear and convolution layers. They are named
    `*.weight` or `weight`, are floating or int8, and have two or more dimensions. They have at least M elements along
    the pruned axis. Embeddings, output heads and normalisations are left out (`DEFAULT_EXCLUDE`).

    Parameters
    ----------
    include : sequence of str, optional
        Shell patterns (`*`, `?`, `[ab]`), case counts. They replace all conditions of the default on
        names, dtypes and lengths. A tensor that cannot be packed (fewer than two dimensions, a dtype that nmsim
        does not prune) still stays as it is.
    exclude : sequence of str, optional
        Shell patterns of tensors to leave alone, on top of either rule.

    Examples
    --------
    >>> rule = Selection()
    >>> rule.why_not(TensorInfo("model.embed_tokens.weight", "BF16", (8, 8), 0, 128), Pattern(2, 4))
    "name matches '*embed*'"
    >>> rule.why_not(TensorInfo("layers.0.mlp.up_proj.weight", "BF16", (8, 8), 0, 128), Pattern(2, 4))
    """

    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    axis: int = -1

    def __post_init__(self) -> None:
        for what, globs in (("include", self.include), ("exclude", self.exclude)):
            if isinstance(globs, str) or not all(isinstance(glob, str) for glob in globs or ()):
                raise ContainerError(
                    f"{what} is {brief(globs)}: expected a sequence of str, such as ['*.weight']"
                )

    def why_not(self, info: TensorInfo, pattern: Pattern) -> str | None:
        """Say why a tensor is left as it is; None when it is to be packed."""
        if len(info.shape) < 2:
            return f"has {len(info.shape)} dimensions"
        if info.dtype not in dtypes.BY_CONTAINER_CODE:
            return f"dtype {info.dtype} is not pruned"
        for glob in self.exclude or ():
            if fnmatchcase(info.name, glob):
                return f"name matches {brief(glob)}"
        if self.include is not None:
            named = any(fnmatchcase(info.name, glob) for glob in self.include)
            return None if named else "name is not included"
        for glob in DEFAULT_EXCLUDE:
            if fnmatchcase(info.name, glob):
                return f"name matches {brief(glob)}"
        if not any(fnmatchcase(info.name, glob) for glob in DEFAULT_INCLUDE):
            return f"name matches none of {', '.join(DEFAULT_INCLUDE)}"
        if info.dtype not in DEFAULT_DTYPES:
            return f"dtype {info.dtype} is packed only when included by name"
        if -len(info.shape) <= self.axis < len(info.shape) and info.shape[self.axis] < pattern.m:
            return f"has {info.shape[self.axis]} elements along axis {self.axis}, fewer than M = {pattern.m}"
        return None


def refuse_nothing_chosen(path: object, names: Sequence[str], include: Sequence[str] | None = None) -> None:
    """Stop with an error if the rule chose no tensor; it names the globs if the user gave some."""
    shown = brief_names(names, most=2)
    if include is not None:
        matches = any(fnmatchcase(name, glob) for name in names for glob in include)
        problem = "can be packed of those that match" if matches else "matches"
        raise ContainerError(
            f"{path}: no tensor {problem} {' or '.join(map(brief, include)) or 'an empty list'}, expected at least one "
            f"of its {len(names)} tensors ({shown}) with a dtype that nmsim prunes and two dimensions or more"
        )
    raise ContainerError(
        f"{path}: none of its {len(names)} tensors ({shown}) is chosen, expected at least one. By default "
        "*.weight are, except embeddings, heads, norms. Include others by name."
    )
