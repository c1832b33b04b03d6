"""The checkout that code was imported from: its commit, and whether it holds changes. What is not known is said to be."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

ANSWER_S = 10
"""A git that takes longer hangs, such as on a slow network file system."""


@dataclass(frozen=True)
class Checkout:
    """The state of a checkout.

    Parameters
    ----------
    commit : str
        Its hex digits; "" if unknown.
    dirty : bool or None
        Whether there are changes that are not in the commit; None if unknown. An unknown commit is never said to be clean.
    """

    commit: str = ""
    dirty: bool | None = None


def checkout(root: Path) -> Checkout:
    """Ask git about a folder that is the root of a checkout.

    The commit is unknown if the folder is none, as after unpacking an archive. It is unknown too if git is missing, hangs, or
    refuses a folder of another user (`safe.directory`). The repository of a folder above is not asked: it is another project's.
    """
    if not (root / ".git").exists():
        return Checkout()
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return Checkout()
    changes = _git(root, "status", "--porcelain")
    return Checkout(commit, None if changes is None else bool(changes))


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers; None if it does not."""
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, text=True, check=True, timeout=ANSWER_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return run.stdout.strip()
