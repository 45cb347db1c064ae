"""Rank words as identifiers by how weak a prior a base model shows for them.

DreamBooth (Ruiz et al. 2023, section 3.2) asks for "an identifier that has a weak prior in both
the language model and the diffusion model". Three numbers measure it for a word X of a class C, and
each is 0 where the model draws "a X C" just as "a C":

- `prediction_shift`: how far X moves the denoiser's prediction, as a share of how far the class's
  own prompt moves it: `|e(a X C) - e(a C)| / |e(a C) - e("")|` over noisy latents of class images;
- `image_shift`: how much further the pictures' DINO features are from the class's mean than those
  of other pictures of the class are, in cosine distance;
- `diversity_change`: DIV (mean LPIPS over pairs) of the pictures minus that of the class's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dreambooth.evaluation.networks import Encoders
from dreambooth.files import cache_key
from dreambooth.metrics.preservation import diversity
from dreambooth.model.interface import BaseModel
from dreambooth.random import keyed_normal
from dreambooth.sampling.manifest import Item, slug

LEVELS = (0.2, 0.4, 0.6, 0.8)  # noise levels, as shares of the training timesteps


@dataclass(frozen=True)
class Words:
    """A class, and how many pictures of each prompt there are, of seeds `seed` and following."""

    class_noun: str
    images: int
    seed: int

    def prompt(self, word: str = "") -> str:
        """Write the prompt of a word, or of the class itself."""
        return f"a {word} {self.class_noun}" if word else f"a {self.class_noun}"

    def items(self, words: Sequence[str]) -> list[Item]:
        """List the pictures: of each word, and of the class twice as many (see `references`)."""
        plain = self.prompt()
        wanted = [(word, self.images) for word in words] + [("", 2 * self.images)]
        return [
            Item(
                "subject" if word else "class",
                f"{slug(self.prompt(word))}_{cache_key(word=word)[:6]}_seed{self.seed + seed}.png",
                self.prompt(word),
                plain,
                self.seed + seed,
            )
            for word, count in wanted
            for seed in range(count)
        ]


@torch.no_grad()
def prediction_shifts(
    model: BaseModel, words: Words, candidates: Sequence[str], images: Sequence[Image.Image]
) -> dict[str, float]:
    """Measure `prediction_shift` of each candidate on noisy latents of class images.

    The noise depends on the seed and the image alone, and is the same for every candidate.
    """
    noisy, timesteps = _noisy_latents(model, images, words.seed)

    def predict(prompt: str) -> Tensor:
        embedding = model.embed([prompt])[[0] * len(images)]
        return torch.cat(
            [model.predict(x, t, embedding).float() for x, t in zip(noisy, timesteps, strict=True)]
        )

    plain = predict(words.prompt())
    scale = (plain - predict("")).norm()
    return {
        word: ((predict(words.prompt(word)) - plain).norm() / scale).item() for word in candidates
    }


def _noisy_latents(
    model: BaseModel, images: Sequence[Image.Image], seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Encode images and add noise, `[N,C,h,w]` and timesteps `[N]` for each level."""
    device = model.device
    arrays = [np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1 for image in images]
    pixels = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays])
    mean, logvar = model.encode(pixels.to(device))
    latents = model.sample_latents(mean, logvar, torch.zeros_like(mean))
    shape = tuple(latents.shape[1:])
    noisy, timesteps = [], []
    for level in LEVELS:
        draws = [keyed_normal(shape, seed, "tokens", str(level), n) for n in range(len(images))]
        at = model.process.level(level, len(images)).to(device)
        noisy.append(model.process.add_noise(latents, torch.stack(draws).to(device), at))
        timesteps.append(at)
    return noisy, timesteps


@dataclass(frozen=True)
class Measured:
    """What was measured of a word; see the module. `rank` is 1 for the weakest prior."""

    word: str
    prediction_shift: float
    image_shift: float
    diversity_change: float
    rank: float = 0.0


def measure(
    words: Words,
    shifts: Mapping[str, float],
    files: Callable[[str], list[Path]],
    encoders: Encoders,
) -> list[Measured]:
    """Measure the pictures of the words of `shifts`, and rank them, the weakest prior first.

    A word's place is the mean of its ranks by the three numbers' sizes.

    Args:
        shifts: `prediction_shift` of each word.
        files: the pictures of a word; of the class ("") twice as many, of which the second half is
            what pictures are compared with.
    """
    half = words.images
    dino, distance = encoders.of("dino"), encoders.distance
    assert distance is not None
    references = files("")[half:]
    mean = F.normalize(dino.images(references).mean(0), dim=0)

    def seen(word: str) -> tuple[float, float]:
        own = files(word)[:half]
        far = 1 - (dino.images(own) @ mean).mean().item()
        div = diversity([word] * half, lambda rows: distance.distance([own[i] for i in rows]))
        return far, div[word]

    far, spread = seen("")
    found = []
    for word, shift in shifts.items():
        own_far, own_spread = seen(word)
        found.append(Measured(word, shift, own_far - far, own_spread - spread))
    return ranked(found)


def ranked(found: Sequence[Measured]) -> list[Measured]:
    """Sort by the mean of the ranks by the three numbers' sizes, then by name.

    >>> one, two = Measured("a", 0.2, -0.1, 0.0), Measured("b", 0.1, 0.3, 0.1)
    >>> [(each.word, round(each.rank, 2)) for each in ranked([two, one])]
    [('a', 1.33), ('b', 1.67)]
    """
    names = ("prediction_shift", "image_shift", "diversity_change")
    places = dict.fromkeys((each.word for each in found), 0.0)
    for name in names:
        order = sorted(found, key=lambda each: (abs(getattr(each, name)), each.word))
        for place, each in enumerate(order, start=1):
            places[each.word] += place / len(names)
    by_place = sorted(found, key=lambda each: (places[each.word], each.word))
    return [
        Measured(e.word, e.prediction_shift, e.image_shift, e.diversity_change, places[e.word])
        for e in by_place
    ]
