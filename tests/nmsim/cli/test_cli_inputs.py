"""What a verb is given as a file, and how names from it are shown.

FIFOs, devices, sockets and folders are refused in a line, and none is waited for. No terminal obeys a name.
"""

import json
import os
import re
import signal
import socket

import numpy as np
import pytest

from hwmodels.sweeps.space import EXAMPLE_FILE
from nmsim import load_file, save_file
from nmsim.cli import VERBS, console
from nmsim.files.checkpoint import pack_checkpoint

LIMIT_S = 60
INPUTS = {
    "pack": ("pack", "{}.safetensors", "-p", "2:4", "-o", "{here}/out.safetensors"),
    "pack-index": ("pack", "{}.safetensors.index.json", "-p", "2:4", "-o", "{here}/out"),
    "unpack": ("unpack", "{}.safetensors", "-o", "{here}/out.safetensors"),
    "inspect": ("inspect", "{}.safetensors"),
    "predict": ("predict", "1,64,64", "-H", "{}.toml"),
    "threshold": ("threshold", "-c", "{}.toml"),
    "model": ("model", "{}.json"),
    "mitigations": ("mitigations", "--model", "{}.json"),
    "core": ("core", "1,64,64", "-c", "{}.toml"),
    "compare": ("compare", "dense", "{}.toml"),
    "core-weights": ("core", "1,64,64", "--simulate", "-w", "{}.safetensors", "-t", "w"),
    "core-other-weights": ("core", "1,64,64", "--simulate", "-w", "{}", "-t", "w"),
    "sweep": ("sweep", "{}.toml", "-o", "{here}/out.parquet"),
    "machine": ("machine", "{}.toml"),
    "measure-rows": ("measure", "cpu-quick", "-o", "{}.csv"),
    "measure-campaign": ("measure", "{}.toml", "-o", "{here}/rows.csv"),
    "validate-rows": ("validate", "--rows", "{}.csv"),
    "validate-hardware": ("validate", "--hardware", "{}.toml"),
    "quality": ("quality", "{}.safetensors", "-o", "{here}/q.csv"),
    "quality-dump": ("quality", "{here}/w.safetensors", "--activations", "{}.safetensors", "-o", "{here}/q.csv"),
    "perplexity-rows": ("perplexity", "accuracy-quick", "-o", "{}.csv"),
    "perplexity-campaign": ("perplexity", "{}.toml", "-o", "{here}/rows.csv"),
    "perplexity-text": ("perplexity", "--text", "{}.txt", "-o", "{here}/rows.csv"),
    "perplexity-model": ("perplexity", "--model", "{}.gguf", "--text", "python-topics", "-o", "{here}/rows.csv"),
    "study-weights": ("study", "--weights", "{}.safetensors", "-o", "{here}/study"),
    "study-model": ("study", "--model", "{}.json", "-o", "{here}/study"),
    "study-hardware": ("study", "--hardware", "{}.toml", "-o", "{here}/study"),
    "check": ("check", "{}.safetensors", "-p", "2:4"),
    "convert": ("convert", "{}.safetensors", "-o", "{here}/out.safetensors"),
    "convert-masks": ("convert", "{}.npz", "-o", "{here}/out.safetensors"),
    "convert-gguf": ("convert", "{}.gguf", "-o", "{here}/out.safetensors"),
    "export": ("export", "1,64,64", "--to", "sparseloop", "-c", "{}.toml", "-o", "{here}/out"),
    "predict-model": ("predict", "--model", "{}.json"),
    "predict-loads": ("predict", "--model", "llama-3.1-8b", "--expert-loads", "{}.csv"),
    "synth-rows": ("synth", "-f", "2:4/index", "-o", "{}.csv"),
    "synth-check": ("synth", "--check", "{}.csv"),
    "fit": ("fit", "--rows", "{}.csv", "-o", "{here}/fit"),
}  # fmt: skip
"""Case -> command line; `{}` is the input that is no file, `{here}` a folder."""


def _fifo(path):
    os.mkfifo(path)


def _device(path):
    path.symlink_to("/dev/zero")


def _socket(path):
    # A socket's path is at most some 100 characters long, so it is bound by a name in its folder.
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


def _folder(path):
    path.mkdir()


KINDS = {"FIFO": _fifo, "device": _device, "socket": _socket, "folder": _folder}


@pytest.fixture
def in_time():
    """End a test that waits for ever."""

    def late(number, frame):
        raise TimeoutError(f"still running after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def here(tmp_path):
    save_file({"w.weight": np.ones((8, 64), np.float16)}, tmp_path / "w.safetensors")
    return tmp_path


def arguments_of(case, here):
    return [part.replace("{here}", str(here)).replace("{}", f"{here}/input") for part in INPUTS[case]]


@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, "FIFO") for case in INPUTS]
    + [(case, kind) for case in ("inspect", "machine", "validate-rows") for kind in KINDS if kind != "FIFO"],
)
def test_no_verb_waits_for_what_is_no_file(case, kind, nmsim, here, in_time):
    (named,) = (part for part in arguments_of(case, here) if f"{here}/input" in part)
    KINDS[kind](here / named.rpartition("/")[2])
    code, out, err = nmsim(*arguments_of(case, here))
    lines = [line for line in err.splitlines() if line.startswith("nmsim: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert named in lines[0]
    assert f"is a {kind}" in lines[0] or (kind == "folder" and "holds 0 files" in lines[0])
    assert len(lines[0]) <= 300 + len(str(here))
    assert not any((here / name).exists() for name in ("out", "out.safetensors", "rows.csv", "q.csv"))


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket"])
def test_a_shard_that_is_no_file_is_refused(kind, nmsim, here, in_time):
    (here / "m.safetensors.index.json").write_text('{"weight_map": {"a": "a.safetensors"}}')
    KINDS[kind](here / "a.safetensors")
    code, _, err = nmsim("inspect", here / "m.safetensors.index.json")
    assert code == 2
    assert err.endswith(f"a.safetensors: is a {kind}{' (pipe)' * (kind == 'FIFO')}, expected a safetensors file; "
                        "copy its content to a file first\n")  # fmt: skip


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ('base = "flexible-8x16" ', 'base = "named.toml" '),
        ('model = ["llama-3.1-8b"] ', 'model = ["named.toml"] '),
        ("# [quality] ", '[quality]\nfile = "named.toml" '),
    ],
)
def test_a_file_that_a_space_names_is_looked_at_too(line, other, nmsim, here, in_time):
    os.mkfifo(here / "named.toml")
    text = EXAMPLE_FILE.read_text()
    assert line in text
    (here / "space.toml").write_text(text.replace(line, other))
    code, _, err = nmsim("sweep", here / "space.toml", "-o", here / "out.parquet")
    assert code == 2
    assert "named.toml: " in err
    assert "unknown key" not in err


@pytest.mark.parametrize("change", ["cut", "cut in the header", "written"])
def test_a_checkpoint_that_changes_while_it_is_read_is_an_error_and_no_signal(change, here):
    """The change comes between two tensors, from the function that is told of progress."""
    path = here / "m.safetensors"
    save_file({f"{name}.weight": np.ones((256, 64), np.float16) for name in "abc"}, path)

    def disturb(name, done_bytes, total_bytes):
        if done_bytes:
            size = {"cut": 40_000, "cut in the header": 100, "written": path.stat().st_size + 1}[change]
            os.truncate(path, size)

    with pytest.raises(
        ValueError, match="was changed while it was read .* expected a file that nobody writes"
    ):
        pack_checkpoint(path, here / "out.safetensors", "2:4", progress=disturb)
    assert not (here / "out.safetensors").exists()


def test_tensors_stay_whole_after_their_file_is_cut(here):
    tensors = load_file(here / "w.safetensors")
    os.truncate(here / "w.safetensors", 10)
    assert (tensors["w.weight"] == 1).all()


HOSTILE = "layers.0.\x1b[31m\x9b\x7f\n\u202e\u2066\u200b\U000e0041[red]=1:smile:|`<script>.weight"
"""A name with control characters, marks of direction, markup of three kinds, and line ends."""


@pytest.fixture
def hostile(tmp_path):
    """A checkpoint of one hostile tensor in a file of a hostile name, which holds no `/` and no NUL."""
    path = tmp_path / f"{HOSTILE.replace('/', '')}.safetensors"
    weights = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float16)
    save_file({HOSTILE: weights}, path)
    return path


VERBS_THAT_SHOW_NAMES = {
    "pack": ("pack", "{}", "-p", "2:4", "-o", "{here}/[b]\x1bout.safetensors"),
    "inspect": ("inspect", "{}"),
    "a tensor that is not there": ("core", "1,64,64", "--simulate", "-w", "{}", "-t", HOSTILE[:30]),
    "another axis": ("pack", "{}", "--axis", "7", "-p", "2:4", "-o", "{here}/o"),
    "nothing chosen": ("inspect", "{}", "--include", HOSTILE[:20]),
    "a machine": ("machine", "{}"),
    "a model": ("study", "--model", "{}", "-o", "{here}/study"),
    "rows": ("validate", "--rows", "{}"),
}


@pytest.mark.parametrize("case", VERBS_THAT_SHOW_NAMES)
def test_names_are_shown_and_never_obeyed(case, nmsim, hostile):
    here = str(hostile.parent)
    arguments = [
        part.replace("{here}", here).replace("{}", str(hostile)) for part in VERBS_THAT_SHOW_NAMES[case]
    ]
    for wide in ([], ["--wide"]):
        _, out, err = nmsim(*arguments, *wide, *(["--force"] if case == "pack" else []))
        shown = (out + err).replace("\n", "")
        assert shown.isprintable()
        assert all(len(line) <= 300 for line in err.splitlines())


def test_json_escapes_what_does_not_print_and_gives_the_name_back(nmsim, hostile):
    code, out, _ = nmsim("inspect", hostile, "-p", "2:4", "--json")
    assert code == 0
    assert out.replace("\n", "").isascii()
    assert out.replace("\n", "").isprintable()
    assert HOSTILE in [row["tensor"] for row in json.loads(out)["rows"]]


@pytest.mark.parametrize(
    "arguments", [["--\x1b[31mx"], ["\x1b[31mx"], ["bits", "--\x1bx"], ["pack", "--axis", "\x1bx"]]
)
def test_errors_of_usage_are_escaped(arguments, nmsim):
    code, out, err = nmsim(*arguments)
    assert code == 2
    assert (out + err).replace("\n", "").isprintable()


def test_text_of_progress_and_of_lines_is_escaped(monkeypatch):
    with console.out.capture() as caught:
        console.say(HOSTILE)
        console.print_table(HOSTILE, [HOSTILE.replace("\n", "")], [[HOSTILE]], note=HOSTILE)
    assert caught.get().replace("\n", "").isprintable()
    assert ":smile:" in caught.get()
    bars = []
    monkeypatch.setattr(
        console.Progress, "update", lambda self, task, **fields: bars.append(fields["description"])
    )
    with console.bytes_bar() as tell_bytes, console.share_bar() as tell_share:
        tell_bytes(HOSTILE, 1, 2)
        tell_share(HOSTILE, 0.5)
    assert len(bars) == 2
    assert all(text.isprintable() for text in bars)


@pytest.mark.parametrize("columns", [20, 40, 60, 74, 80, 99])
def test_a_narrow_terminal_folds_a_table_or_lists_its_cells(columns, monkeypatch):
    monkeypatch.setattr(console.out, "_force_terminal", True)
    monkeypatch.setattr(console.out, "width", columns)
    headings = ["tensor", "bytes kept", "metadata bits per element", "time"]
    rows = [["model.layers.0.mlp.up_proj.weight", "123456789", "0.875", "1.25 us"]]
    with console.out.capture() as caught:
        console.print_table("Tensors", headings, rows)
    text = re.sub(r"\x1b\[[0-9;]*m", "", caught.get())
    for cell in rows[0]:
        assert cell in text.replace("\n", "") or columns >= 75
    if "tensor: " in text:
        assert f"bytes kept: {rows[0][1]}" in text.splitlines()
    else:
        assert max(map(len, text.splitlines())) <= columns


def test_every_verb_that_reads_is_tried():
    assert {arguments[0] for arguments in INPUTS.values()} | {"bits", "calibrate", "bench", "rtl"} == set(
        VERBS
    )
