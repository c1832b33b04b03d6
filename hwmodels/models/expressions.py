"""Small expressions of the table of families: whole numbers, names of keys, arithmetic, comparisons, and choices."""

import ast
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

Lookup = Callable[[str], Any]

ARITHMETIC: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARISONS: Mapping[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}


def make_divisible(value: float, divisor: int) -> int:
    """Round a width to a multiple, by at most 10 % down (as OpenELM rounds its feed-forward widths).

    Examples
    --------
    >>> make_divisible(640.0, 256), make_divisible(2050.0, 256)
    (768, 2048)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


FUNCTIONS: Mapping[str, Callable[..., Any]] = {"count": len, "make_divisible": make_divisible}


@functools.cache
def parsed(text: str) -> ast.expr:
    """Parse an expression once."""
    return ast.parse(text.strip(), mode="eval").body


def evaluate(text: str, lookup: Lookup) -> Any:
    """Give the value of an expression.

    Parameters
    ----------
    text : str
    lookup : callable
        Gives the value of a name.

    Raises
    ------
    ValueError
        A form that the language does not have.

    Examples
    --------
    >>> evaluate("4 * width if width > 2 else 0", {"width": 8}.__getitem__)
    32
    """
    return _value(parsed(text), lookup)


def _value(node: ast.expr, lookup: Lookup) -> Any:
    """Evaluate one node. Only the chosen side of a choice is evaluated, so a key that it needs may be absent elsewhere."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return lookup(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_value(left, lookup), _value(right, lookup))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return COMPARISONS[type(op)](_value(left, lookup), _value(right, lookup))
        case ast.BoolOp(op=op, values=values):
            # As in Python, the value that decides is the result.
            result: Any = None
            for each in values:
                result = _value(each, lookup)
                if bool(result) != isinstance(op, ast.And):
                    break
            return result
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, lookup)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, lookup)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _value(test, lookup) else orelse, lookup)
        case ast.Subscript(value=value, slice=index):
            return _value(value, lookup)[_value(index, lookup)]
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in FUNCTIONS:
            return FUNCTIONS[name](*(_value(each, lookup) for each in arguments))
        case _:
            raise ValueError(f"{ast.unparse(node)}: no expression of the table of families")


def names_in(text: str) -> set[str]:
    """Names that an expression may look up."""
    return {node.id for node in ast.walk(parsed(text)) if isinstance(node, ast.Name)} - FUNCTIONS.keys()
