"""An independent judge of pictures of the world: which class, which colour, which context.

A small convolutional classifier with its own architecture, trained on rendered scenes of its own
seeds alone: never on a generated picture, and on none that the pocket model was trained on.
Stage `probe` of pretraining trains it: `dreambooth pretrain stages=[probe]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import scenes, states, training
from dreambooth.pocket.pretraining.encoders import to_pixels

HEADS: dict[str, tuple[str, ...]] = {
    "class": world.CLASSES,
    "color": tuple(world.COLORS),
    "context": tuple(world.CONTEXTS),
}
FIRST_SHARD = 2442  # seeds from 10,002,432 on, which no other stage may reach


def facts(scene: world.Scene) -> dict[str, str]:
    """What is to be seen: the class, the main colour (a tint's where there is one), the context."""
    seen = scene.seen
    return {"class": seen.class_noun, "color": seen.main_color, "context": scene.view.context}


class Probe(nn.Module):
    """`pixels [N,3,64,64]` in [-1,1] => logits for each head, `[N,15]`, `[N,11]`, `[N,17]`."""

    def __init__(self, channels: Sequence[int] = (32, 64, 112, 192)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            for inputs, stride in ((before, 2), (after, 1))[: 1 if before == 3 else 2]:
                layers += [
                    nn.Conv2d(
                        inputs,
                        after,
                        5 if inputs == 3 else 3,
                        stride,
                        padding=2 if inputs == 3 else 1,
                        bias=False,
                    ),
                    nn.GroupNorm(after // 8, after),
                    nn.SiLU(),
                ]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * channels[-1], len(words)) for name, words in HEADS.items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        features = self.trunk(pixels)  # [N,C,4,4]
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


def _labels(seeds: Iterable[int]) -> Tensor:
    """Index of each fact of each scene, `[N,3]`."""
    said = [facts(world.sample_scene(seed, "any")) for seed in seeds]
    return torch.tensor([[HEADS[head].index(each[head]) for head in HEADS] for each in said])


def _soften(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A third of the pictures blurred, all a little noisy: sharpness must not be what is judged."""
    n = len(pixels)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    where = (torch.rand(n, generator=generator) < 1 / 3)[:, None, None, None].to(pixels.device)
    strength = 0.08 * torch.rand(n, 1, 1, 1, generator=generator)
    noise = (strength * torch.randn(pixels.shape, generator=generator)).to(pixels.device)
    return torch.where(where, blurred, pixels) + noise


def train_probe(
    folder: Path,
    samples: int,
    *,
    scenes_count: int,
    batch_size: int,
    lr: float,
    decay: float,
    ema_decay: float,
    weight_decay: float,
    workers: int,
    bf16: bool,
    save_seconds: float,
    seed: int,
    device: str,
    init: str | None = None,
) -> Probe:
    """Train on `scenes_count` rendered scenes (resumed where it stopped) => `probe.safetensors`."""
    paths = scenes.scene_shards(folder / "scenes", scenes_count, "any", workers, first=FIRST_SHARD)
    shards = [np.load(path, mmap_mode="r") for path in paths]
    first = FIRST_SHARD * scenes.SHARD
    labels = _labels(range(first, first + len(shards) * scenes.SHARD))
    torch.manual_seed(seed)
    probe = Probe().to(device)
    begun = states.begin("probe", probe, folder, init, "probe.safetensors")

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        picked = torch.randint(len(labels), (batch_size,), generator=generator)
        pixels = to_pixels(scenes.pick(shards, picked), device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            logits = probe(_soften(pixels, generator))
        target = labels[picked].to(device)
        terms = {
            name: F.cross_entropy(logits[name].float(), target[:, i])
            for i, name in enumerate(HEADS)
        }
        return {"total": sum(terms.values()), **{k: v.detach() for k, v in terms.items()}}

    training.train(
        "probe",
        probe,
        loss,
        folder,
        samples,
        batch_size,
        lr,
        decay,
        ema_decay,
        weight_decay,
        save_seconds,
        seed,
        device,
        init=begun,
    )
    save_probe(probe, folder)
    return probe


def save_probe(probe: Probe, folder: Path) -> None:
    """Write `<folder>/probe.safetensors`, half precision."""
    state = {k: v.detach().half().cpu().contiguous() for k, v in probe.state_dict().items()}
    with atomic(folder / "probe.safetensors") as temporary:
        save_file(state, temporary)


def load_probe(folder: str | Path, device: str = "cpu") -> Probe:
    """The probe of `<folder>/probe.safetensors`, float32, evaluation mode.

    Raises:
        UserError: the file is missing or holds something else.
    """
    path = Path(folder) / "probe.safetensors"
    probe = Probe()
    try:
        probe.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the probe cannot be read from {path}: train it with "
            "`dreambooth pretrain stages=[probe]`."
        ) from error
    return probe.to(device).eval().requires_grad_(False)


@torch.no_grad()
def judge(probe: Probe, images: np.ndarray, batch_size: int = 64) -> list[dict[str, str]]:
    """Pictures `[N,64,64,3]` uint8 => for each its likeliest class, colour and context."""
    device = str(next(probe.parameters()).device)
    found = []
    for start in range(0, len(images), batch_size):
        logits = probe(to_pixels(images[start : start + batch_size], device))
        best = {name: values.argmax(1).tolist() for name, values in logits.items()}
        for row in zip(*best.values(), strict=True):
            found.append({name: HEADS[name][i] for name, i in zip(best, row, strict=True)})
    return found


def accuracy(probe: Probe, rendered: Sequence[world.Scene]) -> dict[str, float]:
    """Share of scenes that each head names rightly, in [0,1]."""
    found = judge(probe, np.stack([world.render(scene) for scene in rendered]))
    right = [
        {name: each[name] == facts(scene)[name] for name in HEADS}
        for each, scene in zip(found, rendered, strict=True)
    ]
    return {name: float(np.mean([each[name] for each in right])) for name in HEADS}
