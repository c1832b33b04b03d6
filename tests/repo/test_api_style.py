"""The API style of CONTRIBUTING, checked on everything that the packages export."""

import importlib
import inspect

import pytest

PACKAGES = (
    "nmsim",
    "nmsim.interchange",
    "hwmodels",
    "hwmodels.plots",
    "kernels",
    "kernels.cpu",
    "kernels.ops",
    "kernels.ptx",
    "validate",
)


def functions(package):
    """Name and function of what a package exports, public methods of exported classes included."""
    for name in package.__all__:
        exported = getattr(package, name)
        if inspect.isfunction(exported):
            yield name, exported
        if inspect.isclass(exported):
            members = (
                (key, inspect.unwrap(getattr(value, "__func__", value)))
                for key, value in vars(exported).items()
            )
            yield from (
                (f"{name}.{key}", value)
                for key, value in members
                if inspect.isfunction(value) and key[0] != "_"
            )


def positional(function):
    """Parameters that a caller may give by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.name not in ("self", "cls")]


@pytest.mark.parametrize("package", PACKAGES)
def test_at_most_two_arguments_are_positional(package):
    pytest.importorskip("torch") if package == "kernels.ops" else None
    many = {name: positional(f) for name, f in functions(importlib.import_module(package))}
    assert {name: names for name, names in many.items() if len(names) > 2} == {}


def test_a_third_argument_is_found():
    def too_many(case, hardware, phase="decode"):
        """A function as it should not be."""

    assert positional(too_many) == ["case", "hardware", "phase"]
