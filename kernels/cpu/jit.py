"""From IR to machine code: compiled when first asked for, kept for the life of the process, callable without the GIL."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from llvmlite import binding  # type: ignore[import-untyped]

from kernels.cpu.code import POINTER
from kernels.cpu.kernel import ARGUMENTS, NAME, module_for
from kernels.cpu.recipe import Recipe

_SIGNATURE = ctypes.CFUNCTYPE(
    None, *(ctypes.c_void_p if kind is POINTER else ctypes.c_int64 for _, kind in ARGUMENTS)
)


@functools.cache
def compiled(recipe: Recipe) -> Callable[..., None]:
    """The kernel as a function of addresses and integers."""
    machine = _machine(binding.get_host_cpu_name(), _features(recipe.isa))
    module = optimised(recipe, machine)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    function: Any = _SIGNATURE(engine.get_function_address(NAME))
    function.engine = engine  # its code lives as long as the engine
    return function  # type: ignore[no-any-return]


def assembly(recipe: Recipe, cpu: str) -> str:
    """The kernel compiled for a CPU by LLVM's name of it, such as `"znver4"`, as text."""
    machine = _machine(cpu, "")
    return str(machine.emit_assembly(optimised(recipe, machine)))


def optimised(recipe: Recipe, machine: Any) -> Any:
    """The kernel's IR after LLVM's passes. Loops stay as they are written: they are unrolled by hand if it pays."""
    module = binding.parse_assembly(str(module_for(recipe)))
    module.verify()
    tuning = binding.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = binding.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return module


def _features(isa: str) -> str:
    """What the host has, without what the instruction set does not use."""
    features = binding.get_host_cpu_features()
    if isa != "avx512":
        features.update({name: False for name in features if name.startswith(("avx512", "avx10"))})
    return str(features.flatten())


def _machine(cpu: str, features: str) -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)
