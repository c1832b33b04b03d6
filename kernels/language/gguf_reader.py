"""A reader of GGUF files that indexes large vocabularies quickly: that of the package `gguf`, except for arrays.

The reader of the package takes three slices of a mapped array per token and merge. With the 147,000 of them in the file of
SmolLM2, one index takes seconds. Here an array is read by one loop over bytes.
"""

from typing import Any

import numpy as np

COUNT_BYTES = 8
"""Width of the length of a text, and of the number of an array's entries."""
TYPE_BYTES = 4
"""Width of the number that names a type."""


def quick_reader() -> type[Any]:
    """Make a class with the results of `gguf.GGUFReader`; `gguf` is imported now.

    Source
    ------
    The GGUF specification of ggml, section "File Structure". An array is the type of its entries (uint32), their number
    (uint64) and the entries. A text is its length in bytes (uint64) and its bytes.
    """
    import gguf

    class QuickReader(gguf.GGUFReader):
        """Indexes arrays of texts and of numbers by itself, if the file has the byte order of this machine."""

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            kind = gguf.GGUFValueType(raw_type)
            begin = orig_offs + TYPE_BYTES + COUNT_BYTES
            if kind != gguf.GGUFValueType.ARRAY or self.byte_order != "I" or begin > self.data.size:
                return super()._get_field_parts(orig_offs, raw_type)
            (raw_entry,) = self.data[orig_offs : orig_offs + TYPE_BYTES].view("=u4")
            (raw_count,) = self.data[orig_offs + TYPE_BYTES : begin].view("=u8")
            entry, count = gguf.GGUFValueType(raw_entry), int(raw_count)
            if entry == gguf.GGUFValueType.STRING:
                end, entries = _texts(np.asarray(self.data).data, begin, count)
            elif entry in self.gguf_scalar_to_np:
                numbers = _numbers(self.data, begin, count, self.gguf_scalar_to_np[entry])
                end, entries = begin + numbers.nbytes, [numbers[place : place + 1] for place in range(count)]
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            # The package gives one part for the type and one for the count, so that entries begin with part 2.
            head = [raw_entry.reshape(1), raw_count.reshape(1)]
            return (
                end - orig_offs,
                [*head, *entries],
                list(range(len(head), len(head) + count)),
                [kind, entry] if count else [kind],
            )

    return QuickReader


def _texts(data: memoryview, begin: int, count: int) -> tuple[int, list[bytes]]:
    """End and texts of an array of texts."""
    texts, size = [], len(data)
    for _ in range(count):
        length = int.from_bytes(data[begin : begin + COUNT_BYTES], "little")
        end = begin + COUNT_BYTES + length
        if end > size:
            raise ValueError(f"a text ends at byte {end}, and the file at byte {size}")
        texts.append(bytes(data[begin + COUNT_BYTES : end]))
        begin = end
    return begin, texts


def _numbers(data: Any, begin: int, count: int, kind: Any) -> Any:
    """The numbers of an array, which must lie in the file."""
    import numpy as np

    end = begin + count * np.dtype(kind).itemsize
    if end > data.size:
        raise ValueError(f"an array ends at byte {end}, and the file at byte {data.size}")
    return np.asarray(data[begin:end]).view(kind)
