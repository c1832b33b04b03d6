"""Sparse weights in the files of other tools: read into dense blocks, and written from them.

`formats` knows the formats by name and opens a source of any; `convert` goes from one to another. A module per format has
its layout: `sparse_24_bitmask`, `sparse_bitmask`, `marlin_24` (compressed-tensors), `maskllm`, `semi_structured` (torch,
torchao), `gguf`, and `packed` for nmsim's own files. `tensors`, `parts`, `zeros`, `streaming` and `config` serve them all.
"""

from nmsim.interchange.convert import ConvertReport, convert_checkpoint
from nmsim.interchange.formats import FORMATS, FileFormat, detect_format
from nmsim.interchange.semi_structured import read_semi_structured

__all__ = [
    "FORMATS",
    "ConvertReport",
    "FileFormat",
    "convert_checkpoint",
    "detect_format",
    "read_semi_structured",
]
