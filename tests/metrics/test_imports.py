"""Importing the metrics loads no library that only a network needs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

from dreambooth import metrics
from spine import environment

HEAVY = {"transformers", "huggingface_hub", "diffusers", "pytorch_lightning", "torchmetrics"}
HEAVY |= {"torchvision", "lpips", "scipy", "matplotlib", "sympy", "skimage", "pandas"}


def test_importing_every_module_is_light():
    modules = [
        f"dreambooth.metrics.{module.name}" for module in pkgutil.iter_modules(metrics.__path__)
    ]
    assert "dreambooth.metrics.encoders" in modules and "dreambooth.metrics.fidelity" in modules
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded, done.stderr
    assert not loaded & HEAVY
