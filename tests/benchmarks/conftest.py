"""The benchmarks are scripts beside each other: they import by bare name."""

from __future__ import annotations

import sys

from spine import ROOT

sys.path.append(str(ROOT / "benchmarks"))
