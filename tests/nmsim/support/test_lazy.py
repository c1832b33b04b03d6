"""Exports that are imported when they are first used."""

import importlib
import inspect
import sys
import types

import pytest

from nmsim.support.lazy import lazy_exports


@pytest.fixture
def package(monkeypatch):
    """A package of two modules, one of them an export itself; and the names of modules that were imported from it."""
    module = types.ModuleType("shop")
    module.__path__ = []
    goods = types.ModuleType("shop.goods")
    goods.apple = "an apple"
    for name, each in (
        ("shop", module),
        ("shop.goods", goods),
        ("shop.prices", types.ModuleType("shop.prices")),
    ):
        monkeypatch.setitem(sys.modules, name, each)
    module.__getattr__, module.__dir__ = lazy_exports("shop", {"shop.goods": "apple", "shop.prices": ""})
    return module


def test_a_name_is_imported_once(package):
    assert "apple" not in vars(package)
    assert package.apple == "an apple"
    assert vars(package)["apple"] == "an apple"


def test_a_module_may_be_an_export(package):
    assert package.prices is sys.modules["shop.prices"]


def test_dir_lists_what_was_not_imported_yet(package):
    assert {"apple", "prices"} <= set(dir(package))


def test_another_name_is_missing_as_ever(package):
    with pytest.raises(AttributeError, match="module 'shop' has no attribute 'pear'"):
        _ = package.pear
    with pytest.raises(ImportError):
        from shop import pear  # noqa: F401


def test_a_package_that_is_not_installed_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    # What was imported before would hide that torch is not there.
    for name in [name for name in sys.modules if name.startswith("kernels")]:
        monkeypatch.delitem(sys.modules, name)
    kernels = importlib.import_module("kernels")
    message = r"kernels\.\w+ needs torch, which is not installed: pip install 'nmsim\[gpu\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        exec("from kernels import *", {})
    with pytest.raises(ModuleNotFoundError, match=message):
        inspect.getmembers(kernels)
    assert kernels.cpu.matmul


@pytest.mark.parametrize("module", ["kernels.ops", "kernels.ops.layer", "kernels.measure.activation_dump"])
def test_a_part_that_cannot_do_without_torch_says_what_installs_it(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("kernels")]:
        monkeypatch.delitem(sys.modules, name)
    message = r"^kernels\.\S+ needs torch, which is not installed: pip install 'nmsim\[gpu\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        importlib.import_module(module)
