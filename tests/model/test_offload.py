"""Networks that wait: a CPU stands for the GPU, and a record of moves for what is where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from dreambooth.model.architectures import load_model
from dreambooth.model.interface import BaseModel
from dreambooth.model.offload import alone, one_at_a_time, put_to_work, set_aside
from dreambooth.sampling.draw import draw
from dreambooth.sampling.spec import Sampling

GPU = torch.device("cpu", 0)  # "cpu:0": the same memory under another name
MODELS = {
    "tiny_model_dir": (None, Sampling("DDIMScheduler", 2, 3.0, 16, 2)),
    "tiny_xl_model_dir": (None, Sampling("EulerDiscreteScheduler", 2, 3.0, 16, 2)),
    "tiny_sd3_model_dir": (3, Sampling("FlowMatchEulerDiscreteScheduler", 2, 3.0, 16, 2)),
    "tiny_flux2_model_dir": (64, Sampling("FlowMatchEulerDiscreteScheduler", 2, 3.0, 16, 2)),
}


class Places:
    """Where each network of a model was last sent to, and where it was when it ran."""

    def __init__(self, model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        networks = {name: model.network(name) for name in model.layout.networks}
        self.now: dict[str, torch.device] = {}
        self.ran: set[tuple[str, torch.device | None]] = set()
        original = nn.Module.to

        def to(module: nn.Module, *args, **kwargs):
            for name, network in networks.items():
                is_moved = network in module.modules()
                if is_moved and args and isinstance(args[0], (str, torch.device)):
                    self.now[name] = torch.device(args[0])
            return original(module, *args, **kwargs)

        monkeypatch.setattr(nn.Module, "to", to)
        for name, network in networks.items():
            for part in network.modules():
                if not list(part.children()):
                    part.register_forward_pre_hook(self._noting(name))

    def _noting(self, name: str) -> Callable[..., None]:
        return lambda *_: self.ran.add((name, self.now.get(name)))


@pytest.fixture(params=MODELS)
def tiny(request: pytest.FixtureRequest) -> tuple[BaseModel, Sampling]:
    length, sampling = MODELS[request.param]
    folder = str(request.getfixturevalue(request.param))
    return load_model(folder, max_sequence_length=length), sampling


def test_pictures_are_the_same_and_each_network_runs_where_it_should(tiny, monkeypatch):
    model, sampling = tiny
    prompts, seeds = ["a dog", "a cat", "a dog"], [0, 1, 2]
    expected = [np.asarray(image) for image in draw(model, prompts, seeds, sampling)]
    places = Places(model, monkeypatch)
    set_aside(model, GPU)
    assert not list(model.parameters()) and set(places.now.values()) == {torch.device("cpu")}
    early = [np.asarray(image) for image in draw(model, prompts, seeds, sampling)]
    assert set(places.now.values()) == {torch.device("cpu")}  # class images, before any training
    put_to_work(model, [model.denoiser])
    waiting = set(model.layout.networks) - {model.denoiser}
    assert waiting.isdisjoint(name.split(".")[0] for name, _ in model.named_parameters())
    images = [np.asarray(image) for image in draw(model, prompts, seeds, sampling)]
    for a, b, c in zip(expected, early, images, strict=True):
        assert (a == b).all() and (a == c).all()
    assert {name for name, _ in places.ran} == set(model.layout.networks)
    assert {place for _, place in places.ran} == {GPU}
    places.ran.clear()
    draw(model, [*prompts, "a cat"], [*seeds, 3], sampling)  # prompts that are known by now
    assert {name for name, _ in places.ran} == {model.denoiser, model.autoencoder}
    assert {name for name, place in places.now.items() if place == GPU} == {model.denoiser}
    assert not any(hasattr(model.network(name), "_hf_hook") for name in model.layout.networks)


def test_prompts_and_photos_are_encoded_without_the_denoiser(tiny, monkeypatch):
    model, _ = tiny
    with torch.no_grad():
        expected = model.embed(["a dog"]).tokens
    places = Places(model, monkeypatch)
    set_aside(model, GPU)
    put_to_work(model, [model.denoiser])
    with alone(model, *model.prompt_encoders), torch.no_grad():
        assert places.now[model.denoiser] == torch.device("cpu")
        assert torch.equal(model.embed(["a dog"]).tokens, expected)
    with alone(model):
        assert set(places.now.values()) == {torch.device("cpu")}
    with alone(model, model.autoencoder), torch.no_grad():
        model.encode(torch.zeros(1, 3, 16, 16))
    assert {place for _, place in places.ran} == {GPU}
    assert {name for name, place in places.now.items() if place == GPU} == {model.denoiser}


def test_after_an_error_everything_is_in_its_place(tiny, monkeypatch):
    model, sampling = tiny
    places = Places(model, monkeypatch)
    set_aside(model, GPU)
    put_to_work(model, [model.denoiser])
    pipeline = model.pipeline(sampling.build(model.process))
    with pytest.raises(RuntimeError, match="out of memory"), one_at_a_time(model, pipeline):
        model.network(model.denoiser).to(GPU)
        raise RuntimeError("out of memory")
    assert {name for name, place in places.now.items() if place == GPU} == {model.denoiser}


def test_nothing_moves_where_nothing_waits(tiny, monkeypatch):
    model, sampling = tiny
    places = Places(model, monkeypatch)
    with alone(model, *model.prompt_encoders):
        pass
    draw(model, ["a dog"], [0], sampling)
    assert places.now == {}
