"""Writing verbs as processes, killed at random moments: what they leave, and what their next run makes of it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import nmsim
from nmsim import save_file

ROOT = Path(nmsim.__file__).parents[1]
MAIN = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import killing; "
    "killing.run(int(sys.argv[1]), sys.argv[2:])"
)
NEVER = -1
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""Audit events of changes in a folder, beside files that are opened to be written."""
TIMEOUT_S = 300.0
SPACE = """
[core]
base = "flexible-8x16"

[axes]
pattern = ["2:4", "8:16"]
encoding = ["index", "bitmask"]
array_depth = [8, 16]
tokens = {tokens}

[workload]
shapes = [[4096, 4096]]
"""


@dataclass(frozen=True)
class Writing:
    """A verb that writes: its arguments in a folder, the output in it, and lines of it that may differ between two runs.

    `prepare` writes the inputs into the folder. `old` makes an output of an earlier run; without it there is none.
    """

    arguments: Sequence[str]
    output: str
    prepare: Callable[[Path], None]
    differs: Callable[[str, bytes], bytes] = field(default=lambda name, data: data)


def run(kill_at: int, arguments: list[str]) -> None:
    """Run `nmsim` in this process, and kill it before a change in the working folder: 0 is the first, `NEVER` none.

    The number of changes is the last line on standard error.
    """
    from nmsim.cli import main

    here, seen = os.getcwd(), 0

    def watch(event: str, details: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "open":
            if not (isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event not in CHANGES:
            return
        if isinstance(details[0], int) or not os.path.abspath(os.fsdecode(details[0])).startswith(here):  # type: ignore[arg-type]
            return
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(watch)
    try:
        main(arguments)
    finally:
        print(f"changes: {seen}", file=sys.stderr)


def start(folder: Path, *arguments: str, kill_at: int = NEVER) -> "subprocess.Popen[str]":
    """Start `nmsim` in a folder, to be killed before a change there."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, str(kill_at), *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `nmsim` in a folder to its end."""
    with start(folder, *arguments) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def checkpoint(folder: Path) -> None:
    """Some weights to pack: 12 tensors of 256 kB."""
    rng = np.random.default_rng(0)
    tensors = {f"{i}.weight": rng.standard_normal((256, 256)).astype(np.float32) for i in range(12)}
    save_file(tensors, folder / "dense.safetensors")


def packed(folder: Path) -> None:
    """The same, packed."""
    from nmsim.files.checkpoint import pack_checkpoint

    checkpoint(folder)
    pack_checkpoint(folder / "dense.safetensors", folder / "packed.safetensors", "2:4/index")


def space(folder: Path) -> None:
    """A design space of some thousand points."""
    (folder / "space.toml").write_text(SPACE.format(tokens=list(range(1, 513))))


def small_model(folder: Path) -> None:
    """A tiny checkpoint and the shapes of a small model."""
    from validate.study.example_checkpoint import TINY, write_example

    write_example(folder / "tiny.safetensors", shape=TINY)
    (folder / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, '
        '"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1000}'
    )


def without_time(name: str, data: bytes) -> bytes:
    """The bytes of a study's file without its one line of time and command."""
    if name not in ("study.json", "report.html"):
        return data
    lines = data.splitlines(keepends=True)
    marks = (b'"timestamp_utc": ', b"<dt>made</dt>")
    kept = [line for line in lines if not any(mark in line for mark in marks)]
    assert len(kept) == len(lines) - 1, name
    return b"".join(kept)


WRITINGS = {
    "pack": Writing(("pack", "dense.safetensors", "-p", "2:4", "-f", "-o", "out.safetensors"), "out.safetensors", checkpoint),
    "unpack": Writing(("unpack", "packed.safetensors", "-f", "-o", "out.safetensors"), "out.safetensors", packed),
    "convert": Writing(
        ("convert", "packed.safetensors", "-f", "-o", "out.safetensors"), "out.safetensors", packed
    ),
    "sweep": Writing(("sweep", "space.toml", "-f", "-o", "out.csv"), "out.csv", space),
    "threshold": Writing(("threshold", "config.json", "-f", "-o", "out.csv"), "out.csv", small_model),
    "mitigations": Writing(("mitigations", "--model", "config.json", "-f", "-o", "out.csv"), "out.csv", small_model),
    "machine": Writing(("machine", "h200", "-f", "--write", "out.toml"), "out.toml", lambda folder: None),
    "core": Writing(("core", "-c", "dense", "-f", "--write", "out.toml"), "out.toml", lambda folder: None),
    "quality": Writing(
        ("quality", "tiny.safetensors", "-p", "2:4", "--eval-tokens", "8", "--calibration-tokens", "8", "-f", "-o", "out.csv"),
        "out.csv",
        small_model,
    ),
    "validate": Writing(("validate", "-f", "-o", "out.json"), "out.json", lambda folder: None),
    "study": Writing(
        ("study", "--weights", "tiny.safetensors", "--model", "config.json", "-H", "h200", "-p", "2:4", "-e", "index", "-o",
         "out"),
        "out",
        small_model,
        without_time,
    ),
}  # fmt: skip
"""Verbs whose runs with the same input make the same output, by name. Measuring verbs are not among them."""


def contents(
    path: Path, differs: Callable[[str, bytes], bytes] = lambda name, data: data
) -> dict[str, bytes]:
    """What a file or a folder holds, by name, without hidden files; nothing if it does not exist."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        return {file.name: differs(file.name, file.read_bytes()) for file in files}
    return {path.name: differs(path.name, path.read_bytes())} if path.exists() else {}


def changes(folder: Path, writing: Writing) -> int:
    """Count the changes that a whole run of a verb makes in a folder, its output included."""
    ended = finished(folder, *writing.arguments)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stderr.rsplit("changes: ", 1)[1])


def killed_runs(
    folder: Path, writing: Writing, *, delays_s: Iterable[float] = (), places: Iterable[float] = ()
) -> int:
    """Kill a verb again and again, and check that its output is the old one or what a whole run makes, file by file.

    After each kill the verb runs to its end. Its output must be that of an undisturbed run, and nothing else may be left.

    Parameters
    ----------
    folder : Path
        Empty.
    writing : Writing
        One of `WRITINGS`.
    delays_s : iterable of float
        Seconds from the start of a process to its kill. Every second kill meets no output of an earlier run.
    places : iterable of float
        Where among its changes in the folder a process is killed: 0 before the first one, below 1 before the last one.

    Returns
    -------
    int
        Processes that were killed before their end.
    """
    writing.prepare(folder)
    output = folder / writing.output
    count = changes(folder, writing)
    whole = contents(output, writing.differs)
    names = {path.relative_to(folder) for path in folder.rglob("*")}
    killed = 0
    moments = [*((delay_s, NEVER) for delay_s in delays_s), *((0.0, int(place * count)) for place in places)]
    for number, (delay_s, kill_at) in enumerate(moments):
        if number % 2 and output.is_file():
            output.unlink()
        before = contents(output, writing.differs)
        with start(folder, *writing.arguments, kill_at=kill_at) as process:
            if kill_at == NEVER:
                time.sleep(delay_s)
                process.send_signal(signal.SIGKILL)
            process.communicate(timeout=TIMEOUT_S)
        killed += process.returncode == -signal.SIGKILL
        for name, data in contents(output, writing.differs).items():
            assert data in (before.get(name), whole.get(name)), f"{name} is neither the old nor the new file"
        again = finished(folder, *writing.arguments)
        assert again.returncode == 0, again.stderr
        assert contents(output, writing.differs) == whole
        assert {path.relative_to(folder) for path in folder.rglob("*")} == names
    return killed


def drawn(seed: int, count: int, most: float = 1.0) -> list[float]:
    """Places or delays spread evenly from nothing to the most, drawn with a seed."""
    rng = random.Random(seed)
    return [rng.uniform(0.0, most) for _ in range(count)]
