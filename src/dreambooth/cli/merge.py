"""The work of `dreambooth merge`: adapters and embeddings merged into a whole diffusers folder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dreambooth.cli.drawing.sources import additions_of, source_of, weights_of
from dreambooth.errors import UserError
from dreambooth.model.peft_layers import merge_adapters


def merge(cfg: DictConfig) -> int:
    """Write the merged model as a diffusers folder; return 0.

    Raises:
        UserError: no model, an adapter that does not fit, or a folder that holds something else.
    """
    folder, additions = Path(cfg.output_dir), additions_of(cfg)
    source = source_of(cfg, cfg.run, additions)
    if folder.exists() and not (folder / "model_index.json").is_file() and any(folder.iterdir()):
        raise UserError(f"{folder} holds something other than a model: give a new output_dir.")
    model = weights_of(source, additions).load(cfg.adapter_weight)
    merge_adapters(model)
    model.export(folder)
    print(f"{folder}: a whole diffusers pipeline, with everything merged.")
    return 0
