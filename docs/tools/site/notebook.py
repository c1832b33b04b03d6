"""Runs the notebook of the examples and stores what its cells print: `python docs/tools/site/notebook.py`.

Pictures are not stored, so that the file stays small and can be compared. The test of the examples runs it as well.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "docs/examples/tour.ipynb"


def executed(path: Path, *, timeout_s: int = 120) -> str:
    """Run a notebook in an empty kernel; return its text as a file, with what the cells print and without pictures."""
    # The kernel is another process: it finds the packages of this checkout by their path.
    os.environ["PYTHONPATH"] = str(ROOT)
    notebook = nbformat.read(path, as_version=4)
    local = Config({"KernelManager": {"transport": "ipc"}})  # no port of the machine is opened
    NotebookClient(
        notebook, timeout=timeout_s, record_timing=False, coalesce_streams=True, config=local
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_text_only(output) for output in cell.outputs if _has_text(output)]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return str(nbformat.writes(notebook)) + "\n"


def _has_text(output: nbformat.NotebookNode) -> bool:
    return output.output_type == "stream" or "image/png" not in output.get("data", {})


def _text_only(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if "data" in output:
        output.data = {"text/plain": output.data["text/plain"]}
    return output


if __name__ == "__main__":
    text = executed(NOTEBOOK)
    if sys.argv[1:] == ["--check"]:
        sys.exit(NOTEBOOK.read_text(encoding="utf-8") != text)
    NOTEBOOK.write_text(text, encoding="utf-8")
