"""The page on robustness, written from what `make stress` counted on one machine (`reference/robustness.json`)."""

import json
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).resolve().parents[2] / "reference" / "robustness.json"

HEAD = """# Robustness

What nmsim promises about files from unknown sources, about processes that are killed, and about what a file may cost. The stress
tests try it. A short form is part of `make test`.

    make stress

It prints the seed of each test, and `python -m pytest tests/stress --stress --stress-seed SEED` tries that seed again. It writes
`docs/reference/robustness.json`, and `make docs` puts that into the table below.

## What is promised

| subject | promise | details |
|---|---|---|
| streams of codes | a stream that no encoder writes is refused | [formats](formats.md) |
| damaged files | one error of at most 300 characters per problem, or a valid result; never another exception | [inputs](inputs.md) |
| work on a file | bounded by its bytes times a stated constant | [packed files](packed-files.md) |
| memory | `pack` and `unpack` take at most 2.0 times a tensor of 256 MiB, `inspect` 1.5 times, with the process itself | below |
| outputs | complete or absent; one writer at a time; nothing removed that nmsim did not write | [outputs](outputs.md) |
| names from files | no terminal, page or spreadsheet obeys them | [inputs](inputs.md) |
| compiled code on disk | a damaged file of it is compiled anew; a folder that others may write is not used | below |

## What was tried
"""

TAIL = """## Memory

`nmsim pack`, `unpack` and `inspect` read a tensor in blocks of rows. A block has at most 16,777,216 elements and 32 MiB. So memory does
not grow with the largest tensor. The limits hold for every encoding, packing and axis. They are the peak of the whole process
over the bytes of a tensor of 256 MiB, with Python and its libraries (about 114 MiB). The stress test takes
eleven formats and two axes of BF16 weights, and `python tests/peak_memory.py --all` other value types as well. A short test holds that the peak grows by less
than half of what the tensor grows.

Three cases need more. A quantised weight with scales is read as a whole, since its scales may lie anywhere. An error about a value
that is NaN or infinite reads the whole tensor, to say where it is. `nmsim check` and `quality` hold one tensor.

## Compiled code that is kept

nmsim keeps its compiled functions in files (`.nbi`, `.nbc`) beside the modules, as numba does. Each file begins with a digest of its
content. A file that is empty, cut, changed, of another version or of another user counts as missing. The function is then compiled
anew, and the file is replaced in one step. Two processes that compile at once leave whole files.

Reading such a file runs its code. So a folder that its group or all users may write, or that belongs to another user, is not used. The
code is then kept in `$XDG_CACHE_HOME/nmsim/code` (`~/.cache/nmsim/code` by default), in a folder of mode 0700. If that cannot be
written either, nothing is kept. Each run compiles anew, and one warning says so.

## What is not promised

- There is no checksum: a flipped bit within a value, or from one legal code to another, is not noticed.
- A file that changes while it is read is noticed by its length and the time of its last change, not by its content.
- Locks bind nmsim alone. Other programs may write the same output.
- Work is counted in calls and not in seconds, since a shared machine gives no stable time.
- A power cut may lose what the system had not yet written. Files are written to the disk before they get their names.
- Inputs are not confined. A valid file of a terabyte is read to its end.
"""


def page() -> str:
    """The whole page as Markdown."""
    document: dict[str, dict[str, Any]] = json.loads(FIGURES.read_text(encoding="utf-8"))
    machine = document.pop("machine")
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; {machine['date']}; commit {machine['commit']}.\n",
        "| test | seed | time, s | counted |",
        "|---|---|---|---|",
    ]
    for name, figures in document.items():
        counted = [
            f"{what} {_text(value)}" for what, value in figures.items() if what not in ("seed", "took_s")
        ]
        lines.append(
            f"| {name.replace('_', ' ')} | {figures['seed']} | {figures['took_s']} | {'; '.join(counted)} |"
        )
    return "\n".join([HEAD, *lines, "", TAIL]).rstrip() + "\n"


def _text(value: Any) -> str:
    """A count, or counts by name."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_text(count)}" for name, count in value.items()) + ")"
    return f"{value:,}"
