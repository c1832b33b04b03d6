"""The judge: bits measured on real tensors, predictions of whole models, and the report that brings them together.

>>> import tempfile
>>> from pathlib import Path
>>> from validate import run_study
>>> out = Path(tempfile.mkdtemp()) / "study"
>>> found = run_study(None, "llama-3.1-8b", ["h200"], ["8:16"], ["index"], "bitstream", [1], [], out)
>>> sorted(path.name for path in out.iterdir() if path.suffix == ".csv")
['bits.csv', 'cores.csv', 'model.csv', 'study.csv']

Reads files and predictions; never runs a kernel.
"""

from validate.study.example_checkpoint import write_example
from validate.study.study import StudyResult, run_study

__all__ = ["StudyResult", "run_study", "write_example"]
