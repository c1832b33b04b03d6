"""`nmsim bits`: what every encoding costs, from the pattern alone."""

from typing import Annotated, Any

import typer

from nmsim import encodings
from nmsim.cli import console
from nmsim.pattern import Pattern

DEFAULT_PATTERNS = ("1:4", "2:4", "2:8", "4:8", "6:8", "8:16", "16:32")


def rows_of(pattern: Pattern, names: list[str]) -> list[dict[str, Any]]:
    """One row per encoding: bits per code, per group and per element, and the excess over the entropy bound."""
    rows = []
    for name in names:
        codec = encodings.get(name)
        expected = codec.expected_bits_per_group(pattern)
        longest = codec.bits_per_group(pattern)
        rows.append(
            {
                "pattern": str(pattern),
                "encoding": codec.name,
                "groups_per_code": codec.groups_per_code(pattern),
                "code_bits": codec.code_bits(pattern),
                "bits_per_group": float(expected),
                "longest_bits_per_group": float(longest),
                "bits_per_elem": float(expected / pattern.m),
                "entropy_bits_per_group": pattern.entropy_bits,
                "entropy_bits_per_elem": pattern.entropy_bits / pattern.m,
                "configurations": pattern.configurations,
            }
        )
    return rows


def bits(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Patterns N:M (N kept of every M), such as 2:4 8:16.")
    ] = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option(
            "--encoding",
            "--encodings",
            "-e",
            help="Encodings to show, such as gap:2 or joint:10; all by default.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the metadata bits of one group and one element for every encoding, beside the entropy bound.

    Bits are those of the codes themselves; `nmsim inspect` adds the padding of a packing policy on a real file.
    """
    chosen = [Pattern.parse(text) for text in console.split_names(patterns or DEFAULT_PATTERNS, "pattern")]
    names = console.split_names(encoding or encodings.names(), "encoding")
    rows = [row for pattern in chosen for row in rows_of(pattern, names)]
    if as_json:
        console.print_json(rows)
        return
    console.print_table(
        "Metadata bits of a group (of an element)",
        ["pattern", "masks", *(encodings.get(name).name for name in names), "entropy bound"],
        [_line(pattern, [r for r in rows if r["pattern"] == str(pattern)]) for pattern in chosen],
        note="Where codes differ in length, the mean over all masks. joint: groups that share a code in brackets.",
    )


def _line(pattern: Pattern, rows: list[dict[str, Any]]) -> list[str]:
    masks = pattern.configurations
    cells = [str(pattern), str(masks) if masks < 10**12 else f"{float(masks):.4g}"]
    for row in rows:
        shared = f" [{row['groups_per_code']}]" if row["groups_per_code"] > 1 else ""
        cells.append(f"{row['bits_per_group']:.6g} ({row['bits_per_elem']:.4g}){shared}")
    cells.append(f"{pattern.entropy_bits:.4g} ({pattern.entropy_bits / pattern.m:.4g})")
    return cells
