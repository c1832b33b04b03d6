"""Kernels with other numbers than they find by themselves, named in a campaign: `gpu.gemv[warps=8,n_parts=2]`."""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kernels.measure.campaign import BEST
from kernels.measure.cuda.calls import Product
from nmsim.errors import SpecError

_NAME = re.compile(r"(?P<base>[^\[\]]+)(?:\[(?P<options>[^\[\]]*)\])?")
_OPTION = re.compile(r"(\w+)=(\d{1,6})", re.ASCII)


def named(products: Mapping[str, Product], name: str, movers: Iterable[str] = ()) -> Product:
    """Find a product by its name, with the options that stand in brackets behind it.

    An error names `movers`, the kernels that multiply nothing, beside the products.

    Raises
    ------
    SpecError
        No such product, or an option that it does not take.

    Examples
    --------
    >>> from kernels.measure.cuda.calls import PRODUCTS
    >>> named(PRODUCTS, "gpu.gemv[warps=8,n_parts=2]").build.keywords
    {'warps': 8, 'n_parts': 2}
    """
    found = _NAME.fullmatch(name)
    if found is None or found["base"] not in products:
        raise SpecError(f"kernel {name}: expected one of {', '.join((*products, *movers))} (or {BEST})")
    product, text = products[found["base"]], found["options"]
    if text is None:
        return product
    wanted = f"whole numbers of at least 1 for {' or '.join(product.options) or 'nothing, it has no options'}"
    options: dict[str, int] = {}
    for part in text.split(","):
        option = _OPTION.fullmatch(part)
        if option is None or option[1] not in product.options or option[1] in options or int(option[2]) < 1:
            raise SpecError(f"kernel {name}: {part!r}: expected {wanted}, each once")
        options[option[1]] = int(option[2])
    return replace(product, build=functools.partial(product.build, **options), options=())
