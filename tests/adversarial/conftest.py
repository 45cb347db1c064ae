"""The faults are those of the long campaign, which is a script among the benchmarks."""

from __future__ import annotations

import sys

from spine import ROOT

sys.path.append(str(ROOT / "benchmarks"))
