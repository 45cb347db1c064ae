"""A quicker start: what libraries import only because it is installed, imported when it is used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from dreambooth.cli.interrupt import importing


@contextmanager
def postponed_imports() -> Iterator[None]:
    """Leave out what torch's libraries import and a usual run never uses, while they load.

    diffusers and PEFT import bitsandbytes (and through it torch's compiler) if it is installed;
    torchmetrics imports scipy.signal, and diffusers scipy.stats, for features that few runs use.
    They make up two of seven seconds before the first step. Afterwards all can be imported, and
    `scipy.stats` loads where it is used.
    """
    signal, stats = ModuleType("scipy.signal"), ModuleType("scipy.stats")
    signal.hamming = None  # type: ignore[attr-defined]  # all that torchmetrics looks for
    hidden = {"bitsandbytes": None, "scipy.signal": signal, "scipy.stats": stats}
    ours = {name: module for name, module in hidden.items() if name not in sys.modules}
    sys.modules.update(ours)  # type: ignore[arg-type]  # None makes an import fail
    try:
        with importing():
            yield
    finally:
        for name in ours:
            sys.modules.pop(name, None)
