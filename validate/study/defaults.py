"""What a study covers by default."""

MODEL = "llama-3.1-8b"
HARDWARE = ("h200", "b200", "a100-sxm", "rtx4090", "h200-8x16", "h200-16x32")
PATTERNS = ("2:4", "4:8", "8:16", "16:32")
ENCODINGS = ("bitmask", "index", "gap:2", "combinatorial", "joint")
ENCODINGS_OF_ONE_WIDTH = tuple(name for name in ENCODINGS if name != "gap:2")
"""Encodings that every packing takes: codes of `gap:2` differ in length."""
FORMATS = tuple(f"{pattern}/{encoding}" for pattern in PATTERNS for encoding in ENCODINGS)
BATCHES = (1, 2, 4, 8, 16, 64)
"""Sequences of a decode step."""
PREFILL = (512, 2048, 8192)
"""Tokens of a prompt."""
