"""A finished run read back: its record, its configuration, its model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.model.adapters.lora_files import load_lora
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.model.textual_inversion import load_token
from dreambooth.quoting import quoted, typed
from dreambooth.sampling.draw import Sampling
from dreambooth.study.settings import config_of
from dreambooth.training.stages import Sampler, model_path


@dataclass(frozen=True)
class Run:
    """`record` is its run.json, `config` its composed configuration as plain values."""

    folder: Path
    record: dict
    config: dict

    @property
    def sampler(self) -> Sampler:
        """The inference sampler that the run was configured with."""
        return Sampler(**self.config["scheduler"])

    @property
    def sampling(self) -> Sampling:
        """Steps, guidance, size and batch that the run was configured with."""
        return Sampling(**self.config["sampling"], resolution=self.config["resolution"])


def load_run(folder: str | Path) -> Run:
    """Read a finished run's folder.

    Raises:
        UserError: no such folder, a run that did not end, or an earlier version's record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"run={folder} is not a folder: give the output folder of a train.py run.")
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"run={folder} is not a finished run ({error}): finish it with "
            f"`python train.py {typed(f'hydra.run.dir={quoted(folder)}')}` and the same options."
        ) from None
    return Run(folder, record, config_of(folder, record))


def load_model(run: Run) -> LatentDiffusion:
    """The run's model as it was exported: a whole pipeline, or its base with what was learned."""
    learned, base = run.folder / "model", run.record["model"]
    if run.record["export"] == "full":
        return LatentDiffusion.from_pretrained(str(learned))
    model = LatentDiffusion.from_pretrained(
        model_path(base["path"]), base["revision"], base["variant"]
    )
    if run.record["export"] == "lora":
        load_lora(model, learned)
    else:
        load_token(model, learned / "learned_embeds.safetensors")
    return model.requires_grad_(False).eval()
