"""Mix instance and class examples into batches that depend on the step alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from dreambooth.data.latents import Examples
from dreambooth.diffusion.process import DrawTimestep
from dreambooth.random import keyed_generator


@dataclass(frozen=True)
class KeyedBatches(IterableDataset):
    """Batches that are a function of the step, so that resuming has no state to restore.

    A batch holds the instance rows, then the prior rows: `mean, logvar, posterior_noise, noise
    [N,C,h,w]`, `timesteps [N]`, `is_prior [N]`, `sizes [N,6]`, the lists `prompts`, `names` and
    `kinds` (`instance` or `prior`, for those who must not wait for the device), and `key`, the seed
    for what the networks draw themselves (dropout). A row's slot is counted over all ranks: two
    ranks draw together what one process draws for the joint batch.

    Attributes:
        batch_size, prior_batch_size: instance and prior rows per rank and micro-step.
        draw_timestep: draws a row's timestep, `[]`, from a generator.
        noise_offset: strength of the per-channel constant that is added to the noise.
        pairing: `independent` shuffles instance and class examples each with a key of its own;
            `diffusers` fixes class example j % M beside instance j % K, as train_dreambooth.py.
        start: the micro-step of the first batch when iterating.
        variants: prompts of instance rows in whose place each row draws one of several.
    """

    instance: Examples
    prior: Examples | None
    batch_size: int
    prior_batch_size: int
    draw_timestep: DrawTimestep
    seed: int
    noise_offset: float = 0.0
    pairing: str = "independent"
    rank: int = 0
    world_size: int = 1
    start: int = 0
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def prompts(self) -> list[str]:
        """Every prompt that a batch may hold, each once, sorted."""
        own = {v for p in self.instance.prompts for v in self.variants.get(p, (p,))}
        return sorted(own.union(self.prior.prompts if self.prior is not None else ()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.batch, itertools.count(self.start))

    def batch(self, micro_step: int) -> dict[str, Any]:
        """Draw this rank's batch of one micro-step."""
        rows = self._rows("instance", self.instance, self.batch_size, micro_step)
        if self.prior is not None:
            rows += self._rows("prior", self.prior, self.prior_batch_size, micro_step)
        tensors = ("mean", "logvar", "posterior_noise", "noise", "timesteps", "is_prior", "sizes")
        batch: dict[str, Any] = {key: torch.stack([row[key] for row in rows]) for key in tensors}
        batch |= {key: [row[key] for row in rows] for key in ("prompts", "names", "kinds")}
        key = keyed_generator(self.seed, "network", micro_step, self.rank).initial_seed()
        return batch | {"key": key}

    def _rows(
        self, kind: str, examples: Examples, size: int, micro_step: int
    ) -> list[dict[str, Any]]:
        """Draw `size` examples with their noise, each keyed by its slot in the joint batch."""
        rows = []
        shape = examples.mean.shape[1:]
        for slot in range(self.rank * size, (self.rank + 1) * size):
            index = self._index(kind, len(examples), micro_step * size * self.world_size + slot)
            generator = keyed_generator(self.seed, kind, micro_step, slot)
            posterior_noise = torch.randn(shape, generator=generator)
            noise = torch.randn(shape, generator=generator)
            if self.noise_offset:
                constant = torch.randn(shape[0], 1, 1, generator=generator)
                noise = noise + self.noise_offset * constant
            rows.append(
                {
                    "mean": examples.mean[index],
                    "logvar": examples.logvar[index],
                    "posterior_noise": posterior_noise,
                    "noise": noise,
                    "timesteps": self.draw_timestep(generator),
                    "is_prior": torch.tensor(kind == "prior"),
                    "sizes": examples.sizes[index],
                    "kinds": kind,
                    "prompts": self._prompt(kind, examples.prompts[index], micro_step, slot),
                    "names": examples.names[index],
                }
            )
        return rows

    def _prompt(self, kind: str, prompt: str, micro_step: int, slot: int) -> str:
        """Draw one of the variants of an instance row's prompt, if it has any."""
        variants = self.variants.get(prompt) if kind == "instance" else None
        if not variants:
            return prompt
        # a key of its own, so that the noise does not depend on the prompts
        generator = keyed_generator(self.seed, "prompt", micro_step, slot)
        return variants[int(torch.randint(len(variants), (), generator=generator))]

    def _index(self, kind: str, count: int, position: int) -> int:
        """Choose which of `count` examples is drawn at a position of the whole training."""
        if self.pairing == "diffusers":
            length = max(len(self.instance), len(self.prior or ()))
            return _shuffled(position, length, self.seed, "pair") % count
        return _shuffled(position, count, self.seed, kind)


def _shuffled(position: int, count: int, *key: int | str) -> int:
    """Map a position to an index below `count`, in another keyed order in every epoch."""
    epoch, offset = divmod(position, count)
    return int(torch.randperm(count, generator=keyed_generator(*key, epoch))[offset])


class DreamBoothData(pl.LightningDataModule):
    """Give a Trainer the batches of its rank, beginning at its current step."""

    def __init__(self, batches: KeyedBatches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        """Iterate from the trainer's step on: after a resume the next batch, not the first."""
        trainer = self.trainer
        assert trainer is not None  # Lightning sets it before it asks for batches
        here = replace(
            self.batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            start=trainer.global_step * trainer.accumulate_grad_batches,
        )
        # the batches are whole already and cost microseconds: no workers, no batching
        return DataLoader(here, batch_size=None)
