"""The two roads that must agree, behind the same calls: the plain reference, and the fast codecs."""

from typing import Any, Protocol

import numpy as np

from nmsim.pattern import Pattern

Lengths = int | list[int]
"""Bits of every code, or of each where they differ."""


class Road(Protocol):
    """Masks, codes and lengths are ints and lists; streams are bytes."""

    name: str

    def check_encoding_name(self, encoding: str) -> None: ...
    def groups_per_code(self, encoding: str, pattern: Pattern) -> int: ...
    def code_bits(self, encoding: str, pattern: Pattern) -> int: ...
    def encode(self, encoding: str, masks: list[int], pattern: Pattern) -> list[int]: ...
    def decode(
        self, encoding: str, codes: list[int], pattern: Pattern, n_groups: int | None
    ) -> list[int]: ...
    def lengths(self, encoding: str, codes: list[int], pattern: Pattern) -> Lengths: ...
    def pack(self, codes: list[int], lengths: Lengths, policy: str) -> bytes: ...
    def unpack(self, stream: bytes, n_codes: int, code_bits: int, policy: str) -> list[int]: ...
    def report(self, n_codes: int, lengths: Lengths, policy: str) -> dict[str, int]: ...
    def read(
        self, stream: bytes, n_groups: int, pattern: Pattern, encoding: str, policy: str
    ) -> list[int]: ...


class ReferenceRoad:
    """`nmsim.reference`."""

    name = "reference"

    def check_encoding_name(self, encoding: str) -> None:
        from nmsim import reference

        reference.get(encoding)

    def groups_per_code(self, encoding: str, pattern: Pattern) -> int:
        from nmsim import reference

        return reference.get(encoding).groups_per_code(pattern)

    def code_bits(self, encoding: str, pattern: Pattern) -> int:
        from nmsim import reference

        return reference.get(encoding).code_bits(pattern)

    def encode(self, encoding: str, masks: list[int], pattern: Pattern) -> list[int]:
        from nmsim import reference

        return reference.get(encoding).encode(masks, pattern)

    def decode(self, encoding: str, codes: list[int], pattern: Pattern, n_groups: int | None) -> list[int]:
        from nmsim import reference

        return reference.get(encoding).decode(codes, pattern, n_groups)

    def lengths(self, encoding: str, codes: list[int], pattern: Pattern) -> Lengths:
        from nmsim import reference

        chosen = reference.get(encoding)
        if chosen.fixed_width(pattern):
            return chosen.code_bits(pattern)
        return chosen.code_lengths(codes, pattern)

    def pack(self, codes: list[int], lengths: Lengths, policy: str) -> bytes:
        from nmsim.reference import packing

        return packing.pack(codes, lengths, policy)

    def unpack(self, stream: bytes, n_codes: int, code_bits: int, policy: str) -> list[int]:
        from nmsim.reference import packing

        return packing.unpack(stream, n_codes, code_bits, policy)

    def report(self, n_codes: int, lengths: Lengths, policy: str) -> dict[str, int]:
        from nmsim.reference import packing

        return _report_fields(packing.report(n_codes, lengths, policy))

    def read(self, stream: bytes, n_groups: int, pattern: Pattern, encoding: str, policy: str) -> list[int]:
        from nmsim.reference import stream as reference_stream

        return reference_stream.read(stream, n_groups, pattern, encoding, policy)


class FastRoad:
    """`nmsim.encodings` and `nmsim.packing`."""

    name = "fast"

    def check_encoding_name(self, encoding: str) -> None:
        from nmsim import encodings

        encodings.get(encoding)

    def groups_per_code(self, encoding: str, pattern: Pattern) -> int:
        from nmsim import encodings

        return encodings.get(encoding).groups_per_code(pattern)

    def code_bits(self, encoding: str, pattern: Pattern) -> int:
        from nmsim import encodings

        return encodings.get(encoding).code_bits(pattern)

    def encode(self, encoding: str, masks: list[int], pattern: Pattern) -> list[int]:
        from nmsim import encodings

        return _ints(encodings.get(encoding).encode(masks, pattern))

    def decode(self, encoding: str, codes: list[int], pattern: Pattern, n_groups: int | None) -> list[int]:
        from nmsim import encodings

        return _ints(encodings.get(encoding).decode(codes, pattern, n_groups))

    def lengths(self, encoding: str, codes: list[int], pattern: Pattern) -> Lengths:
        from nmsim import encodings

        each = encodings.get(encoding).code_lengths(codes, pattern)
        return self.code_bits(encoding, pattern) if each is None else _ints(each)

    def pack(self, codes: list[int], lengths: Lengths, policy: str) -> bytes:
        from nmsim import packing

        return packing.pack(codes, *_width_and_lengths(lengths, policy)).tobytes()

    def unpack(self, stream: bytes, n_codes: int, code_bits: int, policy: str) -> list[int]:
        from nmsim import packing

        return _ints(packing.unpack(stream, n_codes, code_bits, policy))

    def report(self, n_codes: int, lengths: Lengths, policy: str) -> dict[str, int]:
        from nmsim import packing

        return _report_fields(packing.report(n_codes, *_width_and_lengths(lengths, policy)))

    def read(self, stream: bytes, n_groups: int, pattern: Pattern, encoding: str, policy: str) -> list[int]:
        from nmsim import encodings, words

        return _ints(
            words.to_integers(encodings.get(encoding).read_stream(stream, pattern, n_groups, policy))
        )


def _ints(array: Any) -> list[int]:
    assert array.ndim == 1, array.shape
    return [int(value) for value in array]


def _width_and_lengths(lengths: Lengths, policy: str) -> tuple[int, str, Any]:
    if isinstance(lengths, int):
        return lengths, policy, None
    return max(lengths, default=0), policy, np.array(lengths, dtype=np.int64)


def _report_fields(report: Any) -> dict[str, int]:
    names = ("payload_bits", "padding_bits", "alignment_bits", "stream_bytes")
    return {name: int(getattr(report, name)) for name in names}


REFERENCE = ReferenceRoad()
FAST = FastRoad()
