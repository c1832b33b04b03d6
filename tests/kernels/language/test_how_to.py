"""The how-to page on accuracy, followed word by word on a tiny model: its campaign, its command, and its Python on the rows."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

from nmsim import rows as row_files
from nmsim.rows import LossRow

PAGE = (Path(__file__).parents[3] / "docs/how-to/measure-accuracy.md").read_text(encoding="utf-8")
TEXT = "".join(f"Line {number} of a text has {number * number % 97} words. " for number in range(120))


def only(language, having=""):
    """The one block of a language that holds some text."""
    [block] = [
        text for text in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S) if having in text
    ]
    return block


def test_the_page_is_followed_to_its_end(nmsim, tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(only("toml"))
    Path("book.txt").write_text(TEXT)
    command = shlex.split(only("sh", "mine.toml"))[1:]
    assert command.count("model.gguf") == 1
    command[command.index("model.gguf")] = str(tiny_model)
    code, text, err = nmsim(*command, "--json")
    assert code == 0, err
    # Dense, three patterns, seven kinds of layers, both operands.
    assert [json.loads(text)[name] for name in ("appended", "left", "failed")] == [1 + 3 + 7 + 1, 0, []]
    rows = row_files.read("mine.csv", LossRow)
    assert [row.windows for row in rows] == [16] * 4 + [8] * 7 + [16]
    assert (rows[0].calibration_tokens, rows[0].window_tokens) == (1024, 128)
    both = rows[-1]
    assert (both.layers_pruned, bool(both.weights_pattern), bool(both.activations_pattern)) == (6, True, True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(only("python"), "page", "exec"), {"__name__": "__main__"})
    assert "down_proj" in printed.getvalue()
    assert re.search(r"Interval\(mean=-?\d", printed.getvalue().splitlines()[-1])
