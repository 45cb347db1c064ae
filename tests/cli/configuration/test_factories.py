"""Every optimizer of conf/optimizer learns, saves its state whole, and has a rate that suits it."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dreambooth.cli.configuration import resolvers  # noqa: F401  registers what the YAML files use
from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.configuration.factories import optimizer_factory

NAMES = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
# bytes of state for each weight of a matrix, as their libraries say
STATE = {"adamw": 8, "adamw_8bit": 2, "prodigy": 16, "adafactor": 0, "lion": 4}


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


def descend(name: str, steps: int, saved: dict | None = None):
    """Minimize |w|^2 of a keyed matrix; return the matrix and the optimizer."""
    if name == "prodigy":
        pytest.importorskip("prodigyopt")
    block = OmegaConf.to_container(OmegaConf.load(CONF / "optimizer" / f"{name}.yaml"))
    lr = block.get("own_lr", 1e-2)
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(128, 64, generator=generator))
    optimizer = optimizer_factory(block, lr, "32-true")([{"params": [weight], "lr": lr}], lr=lr)
    if saved is not None:
        optimizer.load_state_dict(saved["optimizer"])
        weight.data.copy_(saved["weight"])
    for _ in range(steps):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    return weight, optimizer


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_descends_and_goes_on_from_its_saved_state(name, tmp_path):
    start, _ = descend(name, 0)
    middle, optimizer = descend(name, 2)
    end, _ = descend(name, 5)
    norms = [float(w.detach().double().square().sum()) for w in (start, middle, end)]
    assert norms[0] > norms[1] > norms[2]
    held = [v for v in optimizer.state[middle].values() if torch.is_tensor(v) and v.numel() > 256]
    size = sum(v.numel() * v.element_size() for v in held) / middle.numel()
    assert size == pytest.approx(STATE[name], abs=0.05)
    torch.save({"optimizer": optimizer.state_dict(), "weight": middle.detach()}, tmp_path / "s")
    saved = torch.load(tmp_path / "s", weights_only=True)
    assert torch.equal(descend(name, 3, saved)[0], end)


def test_a_rate_that_nobody_set_suits_the_optimizer():
    base = composed("optimizer=adamw")
    assert composed("optimizer=adafactor").lr == base.lr == 2e-4
    assert composed("optimizer=lion").lr == pytest.approx(base.lr / 5)
    two = composed("optimizer=prodigy", "method=ti_then_full")
    assert [phase.lr for phase in two.method.phases] == [1.0, 1.0]
    assert composed("optimizer=prodigy", "lr=0.5").lr == 0.5
