"""What follows training: the record belongs to the export, whatever happens after it."""

from __future__ import annotations

import signal

import pytest
import torch

from dreambooth.sampling.samples import SampleSet
from dreambooth.study.runs import Run
from spine import checkpoint


def test_the_record_is_of_the_exported_model_even_where_sampling_breaks_off(
    spine, tmp_path, monkeypatch
):
    out = spine.run(tmp_path, "max_steps=1", "ppl=false")
    monkeypatch.setattr(SampleSet, "draw", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        spine.run(out, "max_steps=2", "ppl=false", "scheduler=pndm")
    run = Run.read(out)
    exported = run.load_model().base_state("unet")
    trained = checkpoint(out)
    assert trained["global_step"] == 2 == run.config["max_steps"]
    assert run.sampling.scheduler == "PNDMScheduler"
    assert all(
        torch.equal(exported[k.removeprefix("unet.")], v) for k, v in trained["state_dict"].items()
    )
