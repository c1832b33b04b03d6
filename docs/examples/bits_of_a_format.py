"""Metadata bits per element of some formats, beside the entropy bound."""

from nmsim import SparseFormat

for text in (
    "2:4/index",
    "2:4/combinatorial",
    "8:16/bitmask",
    "8:16/index",
    "8:16/combinatorial",
    "16:32/combinatorial",
):
    storage = SparseFormat.parse(text)
    pattern = storage.pattern
    bound = pattern.entropy_bits / pattern.m
    print(
        f"{text:20} {pattern.configurations:12,} masks per group   "
        f"{float(storage.bits_per_element):.3f} bits per element   bound {bound:.3f}"
    )

# Packing adds padding: codes of 14 bits that may not cross a 32-bit word waste 4 bits of every word.
padded = SparseFormat.parse("8:16/combinatorial/no_straddle:32")
print(f"{padded}: {padded.stream_bits(1000) / 16000:.3f} bits per element")
