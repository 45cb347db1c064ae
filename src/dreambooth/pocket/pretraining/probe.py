"""Stage `probe`: an independent judge that names a picture's class, colour and context.

A small convolutional classifier with its own architecture, trained only on rendered scenes with
seeds of its own: on no generated picture, and on none that the pocket model was trained on.
`dreambooth pretrain stages=[probe]` trains it.
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
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.checkpoints import start_from
from dreambooth.pocket.pretraining.device import autocast, to_pixels
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.pocket.pretraining.training_loop import train

HEADS: dict[str, tuple[str, ...]] = {
    "class": world.CLASSES,
    "color": tuple(world.COLORS),
    "context": tuple(world.CONTEXTS),
}


def facts(scene: world.Scene) -> dict[str, str]:
    """List what a scene shows: its class, its main colour as painted, and its context."""
    seen = scene.seen
    return {"class": seen.class_noun, "color": seen.main_color, "context": scene.view.context}


class Probe(nn.Module):
    """The classifier: a convolutional trunk, and one linear head per kind of fact."""

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
        """Compute each head's logits, `[N,15|11|17]`, from pixels `[N,3,64,64]` in [-1,1]."""
        features = self.trunk(pixels)  # [N,C,4,4]
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


def _labels(seeds: Iterable[int]) -> Tensor:
    """Look up the index of each fact of each scene, `[N,3]`."""
    shown = [facts(world.sample_scene(seed, "any")) for seed in seeds]
    return torch.tensor([[HEADS[head].index(each[head]) for head in HEADS] for each in shown])


def _soften(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur a third of the pictures and add noise to all, so that sharpness is not judged."""
    n = len(pixels)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    where = (torch.rand(n, generator=generator) < 1 / 3)[:, None, None, None].to(pixels.device)
    strength = 0.08 * torch.rand(n, 1, 1, 1, generator=generator)
    noise = (strength * torch.randn(pixels.shape, generator=generator)).to(pixels.device)
    return torch.where(where, blurred, pixels) + noise


class ProbeLoss:
    """Cross-entropy of the three heads on blurred and noisy scenes.

    Args:
        scenes: shards `[SHARD,64,64,3]` uint8.
        labels: index of each fact of each scene `[N,3]`.
    """

    def __init__(
        self, probe: Probe, spec: PretrainSpec, scenes: list[np.ndarray], labels: Tensor
    ) -> None:
        self.probe, self.spec, self.scenes, self.labels = probe, spec, scenes, labels

    def __call__(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute one batch's loss."""
        spec = self.spec
        picked = torch.randint(len(self.labels), (spec.probe.batch_size,), generator=generator)
        pixels = to_pixels(shards.pick(self.scenes, picked), spec.device)
        with autocast(spec.device, spec.bf16):
            logits = self.probe(_soften(pixels, generator))
        target = self.labels[picked].to(spec.device)
        terms = {
            name: F.cross_entropy(logits[name].float(), target[:, i])
            for i, name in enumerate(HEADS)
        }
        total = sum(terms.values(), torch.zeros(()))
        return {"total": total, **{name: term.detach() for name, term in terms.items()}}


def pretrain_probe(spec: PretrainSpec) -> None:
    """Train the probe on its own scenes and write `probe.safetensors`."""
    folder, count = spec.cache / "scenes", spec.probe.scenes
    paths = shards.scene_shards(folder, count, "any", spec.workers, first=shards.PROBE_SHARD)
    first = shards.PROBE_SHARD * shards.SHARD
    labels = _labels(range(first, first + len(paths) * shards.SHARD))
    torch.manual_seed(spec.seed)
    probe = Probe().to(spec.device)
    checkpoint = spec.cache / "probe.pt"
    facts = {"init": start_from(spec.init, "probe.safetensors", probe, checkpoint)}
    loss = ProbeLoss(probe, spec, shards.open_shards(paths), labels)
    train("probe", probe, loss, spec.cache, spec.training(spec.probe), facts)
    save_probe(probe, spec.cache)


def save_probe(probe: Probe, folder: Path) -> None:
    """Write `<folder>/probe.safetensors` in half precision."""
    state = {k: v.detach().half().cpu().contiguous() for k, v in probe.state_dict().items()}
    with atomic(folder / "probe.safetensors") as temporary:
        save_file(state, temporary)


def load_probe(folder: str | Path, device: str = "cpu") -> Probe:
    """Load `<folder>/probe.safetensors` as float32, in evaluation mode.

    Raises:
        UserError: a file that is missing or holds something else.
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
    """Name the likeliest class, colour and context of each picture of `[N,64,64,3]` uint8."""
    device = str(next(probe.parameters()).device)
    found = []
    for start in range(0, len(images), batch_size):
        logits = probe(to_pixels(images[start : start + batch_size], device))
        best = {name: values.argmax(1).tolist() for name, values in logits.items()}
        for row in zip(*best.values(), strict=True):
            found.append({name: HEADS[name][i] for name, i in zip(best, row, strict=True)})
    return found


def accuracy(probe: Probe, rendered: Sequence[world.Scene]) -> dict[str, float]:
    """Compute the share of scenes that each head names correctly, in [0,1]."""
    found = judge(probe, np.stack([world.render(scene) for scene in rendered]))
    right = [
        {name: each[name] == facts(scene)[name] for name in HEADS}
        for each, scene in zip(found, rendered, strict=True)
    ]
    return {name: float(np.mean([each[name] for each in right])) for name in HEADS}
