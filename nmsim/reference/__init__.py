"""The slow plain twin of every encoding: integers and lists, written to be read beside the format page.

The fast codecs are checked against it on the same inputs. So it shares no code with them. It imports the standard
library, `nmsim.errors` and `nmsim.pattern`, and is not optimised. A stranger who wants to write a decoder in another
language can start here.

| module | idea |
|---|---|
| `masks` | choose what is kept, cut a row into group masks, complete a group that keeps fewer than N |
| `bitmask`, `index`, `gap`, `combinatorial`, `joint`, `tiled` | one encoding each: masks to codes and back |
| `packing` | codes to bytes and back, and what the bits are spent on |
| `stream` | the encodings by name; masks to bytes and back in one call |

Examples
--------
>>> from nmsim.pattern import Pattern
>>> from nmsim.reference import stream
>>> stream.write([0b0110, 0b1100, 0b0011], Pattern(2, 4), "combinatorial", "bitstream").hex()
'2a00'
"""

from nmsim.reference.masks import complete
from nmsim.reference.stream import ENCODINGS, ReferenceEncoding, get

__all__ = ["ENCODINGS", "ReferenceEncoding", "complete", "get"]
