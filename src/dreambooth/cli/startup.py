"""A quicker start: what libraries import only because it is installed, imported when it is used."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from dreambooth.cli.interrupt import importing

PLOTS = "torchmetrics.utilities.plot"


@contextmanager
def postponed_imports() -> Iterator[None]:
    """Leave out what torch's libraries import and a usual run never uses, while they load.

    diffusers and PEFT import bitsandbytes (and through it torch's compiler) if it is installed;
    torchmetrics imports scipy.signal, matplotlib and every metric that it has, and diffusers
    scipy.stats, for features that few runs use. They make up a third of the time before the first
    step. Afterwards all can be imported, and `scipy.stats` loads where it is used.
    """
    signal = ModuleType("scipy.signal")
    signal.hamming = None  # type: ignore[attr-defined]  # all that torchmetrics looks for
    hidden = {
        "bitsandbytes": None,
        "scipy.signal": signal,
        "scipy.stats": ModuleType("scipy.stats"),
        "torchmetrics": _Torchmetrics(),
        PLOTS: _plots(),
    }
    ours = {name: module for name, module in hidden.items() if name not in sys.modules}
    sys.modules.update(ours)  # type: ignore[arg-type]  # None makes an import fail
    try:
        with importing(), _collected_once():
            yield
    finally:
        for name in ours:
            if sys.modules.get(name) is ours[name]:
                del sys.modules[name]


class _Torchmetrics(ModuleType):
    """Stands for the package torchmetrics without importing its metrics.

    Lightning takes two base classes from it, which modules of the package hold. Asked for anything
    else, it imports the package.
    """

    def __init__(self) -> None:
        super().__init__("torchmetrics")
        self.__spec__ = spec = find_spec("torchmetrics")
        self.__path__ = [] if spec is None else list(spec.submodule_search_locations or [])
        self._logger = logging.getLogger("torchmetrics")  # what its own modules take

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("Metric", "MetricCollection"):
            importlib.import_module("torchmetrics.utilities")  # its modules load in this order only
            module = "metric" if name == "Metric" else "collections"
            return getattr(importlib.import_module(f"torchmetrics.{module}"), name)
        if sys.modules.get("torchmetrics") is self:
            del sys.modules["torchmetrics"]
            sys.modules.pop(PLOTS, None)
        return getattr(importlib.import_module("torchmetrics"), name)


def _plots() -> ModuleType:
    """Stand for torchmetrics' plots, which take matplotlib, until one is drawn."""

    def plot_single_or_multi_val(*args: Any, **options: Any) -> Any:
        return importlib.import_module(PLOTS).plot_single_or_multi_val(*args, **options)

    plots: Any = ModuleType(PLOTS)
    plots.plot_single_or_multi_val = plot_single_or_multi_val
    plots._AX_TYPE = plots._PLOT_OUT_TYPE = Any  # of annotations
    return plots


@contextmanager
def _collected_once() -> Iterator[None]:
    """Collect no garbage while libraries load for the first time, and later leave them out of it.

    They make a million objects that stay.
    """
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            gc.enable()
