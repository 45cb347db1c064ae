"""What is left out while libraries load is there afterwards."""

from __future__ import annotations

import gc
import sys

import pytest

from dreambooth.cli.startup import postponed_imports


@pytest.fixture
def no_torchmetrics():
    """No module of torchmetrics is loaded; afterwards those that were are back."""

    def take() -> dict:
        names = [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]
        return {name: sys.modules.pop(name) for name in names}

    before = take()
    yield
    take()
    sys.modules.update(before)


@pytest.mark.slow
def test_torchmetrics_gives_its_bases_alone_and_later_everything(no_torchmetrics):
    with postponed_imports():
        from torchmetrics import Metric, MetricCollection

        names = {name for name in sys.modules if name.startswith("torchmetrics.")}
        assert "torchmetrics.metric" in names and "torchmetrics.functional" not in names
    import torchmetrics

    assert torchmetrics.Metric is Metric and torchmetrics.MetricCollection is MetricCollection
    average = torchmetrics.MeanMetric()
    average.update(3.0)
    figure, _ = average.plot()
    assert figure.axes


@pytest.mark.slow
def test_any_other_metric_loads_the_package_at_once(no_torchmetrics):
    with postponed_imports():
        from torchmetrics import MeanMetric

        assert sys.modules["torchmetrics"].MeanMetric is MeanMetric


def test_garbage_is_collected_afterwards():
    with pytest.raises(ImportError), postponed_imports():
        import bitsandbytes.nothing  # noqa: F401
    assert gc.isenabled()
