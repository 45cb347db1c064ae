"""Instance and class examples mixed into batches that are a function of the step alone.

photos => posterior `mean, logvar [C,h,w]` once per crop => batches with all their randomness.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dreambooth.data.photos import crops, image_hash, load_photos
from dreambooth.files import atomic, cache_key, locked
from dreambooth.random import keyed_generator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crops:
    """How a photo becomes training pictures: `num_crops` views, the centre alone by default."""

    resolution: int
    num_crops: int = 1
    random_crop: bool = False
    flip: bool = False
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Examples:
    """Encoded views of one kind: `mean, logvar [M,C,h,w]`, a prompt and a file name for each.

    `key` changes with anything the latents depend on.
    """

    mean: Tensor
    logvar: Tensor
    prompts: tuple[str, ...]
    names: tuple[str, ...]
    key: str = ""

    def __len__(self) -> int:
        return len(self.prompts)


def encode_examples(
    model,
    paths: Sequence[Path],
    prompts: Sequence[str],
    cut: Crops,
    seed: int,
    cache_dir: str | Path,
    batch_size: int = 8,
) -> Examples:
    """Encode every view of every photo by the frozen VAE, or read it from the latent cache.

    Args:
        model: a LatentDiffusion; its VAE runs in float32 on the device where it lies.
        paths, prompts: one prompt a photo.

    Raises:
        UserError: a photo that cannot be read, by name.
    """
    hashes = [image_hash(path) for path in paths]
    drawn = cut.num_crops > 1 or cut.random_crop or cut.flip  # else the seed changes nothing
    key = cache_key(
        model=model.weights_hash(),
        photos=hashes,
        names=[p.name for p in paths],
        seed=seed if drawn else None,
        **vars(cut),
    )
    file = Path(cache_dir) / "latents" / f"{key}.safetensors"
    with locked(file):
        stored = _read(file)
        if stored is None:
            views = itertools.chain.from_iterable(
                crops(image, name=path.name, seed=seed, **vars(cut))
                for path, image in zip(paths, load_photos(paths), strict=True)
            )
            stored = _encode(model, views, batch_size)
            with atomic(file) as temporary:
                save_file(stored, temporary)
    return Examples(
        stored["mean"],
        stored["logvar"],
        tuple(prompt for prompt in prompts for _ in range(cut.num_crops)),
        tuple(path.name for path in paths for _ in range(cut.num_crops)),
        key,
    )


def _read(file: Path) -> dict[str, Tensor] | None:
    """The stored latents; None where there are none or the file is damaged."""
    try:
        return load_file(file)
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        log.warning("%s is damaged (%s): encoding again.", file, error)
        return None


@torch.no_grad()
def _encode(model, views: Iterator[Tensor], batch_size: int) -> dict[str, Tensor]:
    device = next(model.vae.parameters()).device
    means, logvars = [], []
    while part := list(itertools.islice(views, batch_size)):
        mean, logvar = model.encode(torch.stack(part).to(device))
        means.append(mean.float().cpu())
        logvars.append(logvar.float().cpu())
    # the posterior's halves are views of one tensor, which safetensors would refuse
    return {"mean": torch.cat(means).contiguous(), "logvar": torch.cat(logvars).contiguous()}


def example_index(position: int, count: int, *key: int | str) -> int:
    """Which of `count` examples is drawn at a position: every epoch is a keyed permutation."""
    epoch, offset = divmod(position, count)
    return int(torch.randperm(count, generator=keyed_generator(*key, epoch))[offset])


@dataclass(frozen=True)
class KeyedBatches(IterableDataset):
    """Batches as a pure function of the micro-step, so that resuming has nothing to restore.

    A batch holds `[instance..., prior...]`: `mean, logvar, posterior_noise, noise [N,C,h,w]`,
    `timesteps [N]`, `is_prior [N]`, the lists `prompts` and `names`, and `key`, the seed of what
    the networks draw themselves (dropout). Slots are counted over all ranks, so that two ranks
    draw together what one process draws for the joint batch.

    Args:
        pairing: `independent` shuffles instance and class examples each by its own key;
            `diffusers` fixes class example j % M beside instance j % K, as train_dreambooth.py.
        noise_offset: strength of the per-channel constant added to the noise.
    """

    instance: Examples
    prior: Examples | None
    batch_size: int
    prior_batch_size: int
    num_timesteps: int
    seed: int
    noise_offset: float = 0.0
    pairing: str = "independent"
    rank: int = 0
    world_size: int = 1
    start: int = 0

    def __iter__(self) -> Iterator[dict]:
        return map(self.batch, itertools.count(self.start))

    def batch(self, micro_step: int) -> dict:
        """The batch of one micro-step on this rank."""
        drawn = [self._draw("instance", micro_step, i) for i in range(self.batch_size)]
        if self.prior is not None:
            drawn += [self._draw("prior", micro_step, i) for i in range(self.prior_batch_size)]
        tensors = ("mean", "logvar", "posterior_noise", "noise", "timesteps", "is_prior")
        batch: dict = {key: torch.stack([d[key] for d in drawn]) for key in tensors}
        batch |= {key: [d[key] for d in drawn] for key in ("prompts", "names")}
        key = keyed_generator(self.seed, "network", micro_step, self.rank).initial_seed()
        return batch | {"key": key}

    def _draw(self, kind: str, micro_step: int, i: int) -> dict:
        """One example with its noise, keyed by the slot it has in the joint batch."""
        examples = self.instance if kind == "instance" else self.prior
        size = self.batch_size if kind == "instance" else self.prior_batch_size
        slot = self.rank * size + i
        index = self._index(kind, len(examples), micro_step * size * self.world_size + slot)
        shape = examples.mean.shape[1:]
        generator = keyed_generator(self.seed, kind, micro_step, slot)
        posterior_noise = torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        if self.noise_offset:
            noise = noise + self.noise_offset * torch.randn(shape[0], 1, 1, generator=generator)
        return {
            "mean": examples.mean[index],
            "logvar": examples.logvar[index],
            "posterior_noise": posterior_noise,
            "noise": noise,
            "timesteps": torch.randint(self.num_timesteps, (), generator=generator),
            "is_prior": torch.tensor(kind == "prior"),
            "prompts": examples.prompts[index],
            "names": examples.names[index],
        }

    def _index(self, kind: str, count: int, position: int) -> int:
        if self.pairing == "diffusers":
            length = max(len(self.instance), len(self.prior or ()))
            return example_index(position, length, self.seed, "pair") % count
        return example_index(position, count, self.seed, kind)


class DreamBoothData(pl.LightningDataModule):
    """Feeds a Trainer the batches of its rank, from the micro-step it stands at."""

    def __init__(self, batches: KeyedBatches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        """Batches from the trainer's own step on: after a resume the next one, not the first."""
        here = replace(
            self.batches,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            start=self.trainer.global_step * self.trainer.accumulate_grad_batches,
        )
        # the batches are whole already and cost microseconds: no workers, no batching
        return DataLoader(here, batch_size=None)
