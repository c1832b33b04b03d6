"""Expressions of Verilog: as few parentheses as are clear, and lines that fit.

Every expression has the width of its place. So none depends on how Verilog widens operands.
"""

from dataclasses import dataclass

LINE = 100
"""Characters of a line, if its names allow it."""
MIXED_WITHOUT_PARENTHESES = {("+", "*"), ("-", "*")}
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class Expression:
    """`kind` is "text", an operator, "?" (condition, then, else), "{}" (highest first), or "{n{}}"."""

    kind: str
    text: str = ""
    parts: "tuple[Expression, ...]" = ()

    @property
    def size(self) -> int:
        """Names and constants in it."""
        return sum(part.size for part in self.parts) or 1

    def __str__(self) -> str:
        if self.kind == "text":
            return self.text
        if self.kind == "?":
            test, then, otherwise = self.parts
            chained = str(otherwise) if otherwise.kind == "?" else otherwise.inside("?")
            return f"{test.inside('?')} ? {then.inside('?')} : {chained}"
        if self.kind == "{}":
            return "{" + ", ".join(map(str, self.parts)) + "}"
        if self.kind == "{n{}}":
            return f"{{{self.text}{{{self.parts[0]}}}}}"
        if self.kind == "call":
            return f"{self.text}({self.parts[0]})"
        if len(self.parts) == 1:
            return f"{self.kind}{self.parts[0].inside('unary')}"
        return f" {self.kind} ".join(
            part.inside(self.kind, first=not at) for at, part in enumerate(self.parts)
        )

    def inside(self, operator: str, *, first: bool = False) -> str:
        """The text as an operand."""
        plain = self.kind in ("text", "{}", "{n{}}", "call")
        if (
            plain
            or (self.kind == "~" and operator != "unary")
            or (operator, self.kind) in MIXED_WITHOUT_PARENTHESES
        ):
            return str(self)
        if operator == "?" and self.kind in COMPARISONS:
            return str(self)
        if first and operator in ("+", "-") and self.kind in ("+", "-"):
            return str(self)
        return f"({self})"

    def lines(self, room: int) -> list[str]:
        """Break where it does not fit: before operators, after items of a concatenation, after `:`."""
        flat = str(self)
        if len(flat) <= room or self.kind in ("text", "call", "{n{}}"):
            return [flat]
        if len(self.parts) == 1:
            [part] = self.parts
            first, *more = part.lines(room - len(self.kind))
            return [f"{self.kind}{first}", *more] if part.kind == "{}" else [flat]
        if self.kind == "?":
            lines: list[str] = []
            rest = self
            while rest.kind == "?":
                test, then, otherwise = rest.parts
                lines.append(f"{test.inside('?')} ? {then.inside('?')} :")
                rest = otherwise
            return [*lines, rest.inside("?")]
        if self.kind == "{}":
            items = [part.lines(room) for part in self.parts]
            items[0][0] = "{" + items[0][0]
            return _filled(items, room, ", ", "}")
        items = [part.broken(self.kind, room, first=not at) for at, part in enumerate(self.parts)]
        for item in items[1:]:
            item[0] = f"{self.kind} {item[0]}"
        return _filled(items, room, " ", "")

    def broken(self, operator: str, room: int, *, first: bool = False) -> list[str]:
        """The lines as an operand."""
        flat = self.inside(operator, first=first)
        if len(flat) <= room:
            return [flat]
        lines = self.lines(room)
        if flat.startswith("(") and flat == f"({self})":
            lines = [f"({lines[0]}", *lines[1:]]
            lines[-1] += ")"
        return lines


def _filled(items: list[list[str]], room: int, gap: str, end: str) -> list[str]:
    """Put items on lines, as many on each as fit; an item of several lines has them to itself."""
    lines: list[str] = []
    line = ""
    for item in items:
        if line and (len(item) > 1 or len(line) + len(gap) + len(item[0]) > room):
            lines.append((line + gap).rstrip())
            line = ""
        line = line + gap + item[0] if line else item[0]
        if len(item) > 1:
            lines += [line, *item[1:-1]]
            line = item[-1]
    return [*lines, line + end]


def text(words: str) -> Expression:
    """A name or a constant."""
    return Expression("text", words)


def constant(value: int, width: int) -> Expression:
    """A sized constant: single bits and long ones as they are stored, others decimal."""
    if width == 1:
        return text(f"1'b{value}")
    return text(f"{width}'d{value}" if width <= 16 else f"{width}'h{value:x}")


def joined(operator: str, *parts: Expression) -> Expression:
    """An operator whose order does not matter, flattened if it nests."""
    flat: list[Expression] = []
    for part in parts:
        flat += part.parts if part.kind == operator and len(part.parts) > 1 else (part,)
    return Expression(operator, parts=tuple(flat))


def assignment(left: str, value: Expression, indent: str, end: str = ";") -> list[str]:
    """Lines of `left = value;`, broken if they must be."""
    start = f"{indent}{left} "
    flat = f"{start}{value}{end}"
    if len(flat) <= LINE:
        return [flat]
    inner = f"{indent}    "
    lines = value.lines(LINE - len(inner))
    return [start.rstrip(), *(inner + line for line in lines[:-1]), inner + lines[-1] + end]
