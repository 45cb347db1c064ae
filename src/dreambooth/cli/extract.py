"""The work of `dreambooth extract`: a LoRA from a full fine-tune, with its error and scores."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dreambooth.cli.drawing.sources import recorded_method
from dreambooth.cli.scoring.lora_scores import print_beside_full_model
from dreambooth.errors import UserError
from dreambooth.files import readable_size, write_csv
from dreambooth.locks import held
from dreambooth.model.adapters.extraction import (
    Extracted,
    extract_lora,
    total_error,
    write_extracted,
)
from dreambooth.model.adapters.formats import find_adapter
from dreambooth.model.architectures import load_model
from dreambooth.model.token_files import TOKEN_FILE, save_token
from dreambooth.sampling.draw import torch_device
from dreambooth.study.finished.base_model import load_base
from dreambooth.study.finished.runs import Run

SHOWN = 5  # layers with the largest errors that are printed


def extract(cfg: DictConfig) -> int:
    """Write the LoRA and `extraction.csv`, a row for each layer, and its scores; return 0.

    Raises:
        UserError: no full fine-tune, or a model of another architecture.
    """
    base_block, tuned, folder = _models(cfg)
    is_scored = cfg.evaluation.prompts is not None
    if is_scored and cfg.run is None:
        raise UserError(
            f"evaluation={cfg.evaluation.name} needs run=DIR, which knows the subject's words and "
            "photos: score the LoRA of tuned=DIR with evaluate.py model=NAME adapters=[FILE]."
        )
    if cfg.output_dir is not None:
        folder = Path(cfg.output_dir)
    is_apart = cfg.output_dir is not None and not is_scored
    other = "pass output_dir=DIR and evaluation=none"
    with nullcontext() if cfg.run is None or is_apart else held(Path(cfg.run), other):
        extracted, words = _write(cfg, base_block, tuned, folder)
        write_csv(folder / "extraction.csv", _rows(extracted))
        _print(extracted, cfg.rank)
        if words:
            print(words)
        if is_scored:
            print_beside_full_model(cfg, folder, total_error([*extracted.values()], True))
    file = find_adapter(folder)
    print(f"{file} ({readable_size(file.stat().st_size)})\n{folder / 'extraction.csv'}")
    return 0


def _write(
    cfg: DictConfig, base_block: Mapping[str, Any], tuned: Path, folder: Path
) -> tuple[dict[str, Extracted], str]:
    """Write the LoRA, and a run's token beside it; return it, and a sentence on new words."""
    base = load_base(base_block)
    after = load_model(str(tuned), max_sequence_length=base_block.get("max_sequence_length"))
    device = torch_device(cfg.device)
    extracted = {
        name: extract_lora(base.base_state(name), after.base_state(name), cfg.rank, device=device)
        for name in base.trainable_networks
    }
    if not any(each.layers for each in extracted.values()):
        raise UserError(f"{tuned} and its base model do not differ in any layer: check the paths.")
    words = sorted(after.tokenizer.get_added_vocab().keys() - base.tokenizer.get_vocab().keys())
    write_extracted(base, extracted, folder)
    token = None if cfg.run is None else recorded_method(Run.read(cfg.run)).token
    if token is not None:
        save_token(after, token, folder / TOKEN_FILE)
        return extracted, f"{token.token} is in {TOKEN_FILE} beside it: a LoRA holds no new words."
    if words:
        return extracted, f"A LoRA holds no new words, and the model has {', '.join(words)}."
    return extracted, ""


def _models(cfg: DictConfig) -> tuple[Mapping[str, Any], Path, Path]:
    """The base model, the folder of the fine-tuned one, and where the LoRA goes by default."""
    name = f"lora_rank{cfg.rank}"
    if (cfg.run is None) == (cfg.tuned is None):
        raise UserError(
            "Say what was fine-tuned: run=DIR (a finished run), or tuned=DIR model=NAME (a "
            "diffusers folder and its base model)."
        )
    if cfg.run is None:
        if "model" not in cfg:
            raise UserError("tuned=DIR needs its base model: give model=sd15, for example.")
        return cfg.model, Path(cfg.tuned), Path("outputs/extracted") / Path(cfg.tuned).name / name
    run = Run.read(cfg.run)
    if run.record["export"] != "full":
        raise UserError(
            f"{run.folder} exported {run.record['export']}: a LoRA is extracted from a run of "
            "method=full."
        )
    run.check_export()
    return run.base, run.folder / "model", run.folder / name


def _rows(extracted: Mapping[str, Extracted]) -> list[dict[str, Any]]:
    rows = []
    for network, each in extracted.items():
        for error in each.layers:
            row = {"network": network, "layer": error.layer, "rank": each.rank}
            rows.append({**row, "change": error.change, "relative_error": error.relative})
        for name, norm in each.left_out.items():
            row = {"network": network, "layer": name, "rank": 0}
            rows.append({**row, "change": norm, "relative_error": 1.0})
    return rows


def _print(extracted: Mapping[str, Extracted], rank: int) -> None:
    each = list(extracted.values())
    layers = sorted(
        (
            (error.relative, f"{network}.{error.layer}")
            for network, one in extracted.items()
            for error in one.layers
        ),
        reverse=True,
    )
    print(f"Rank {rank}: relative error {total_error(each):.3f} over {len(layers)} layers.")
    left_out = sum(len(one.left_out) for one in each)
    print(
        f"With the {left_out} changed weights that no LoRA holds (biases, normalisation, "
        f"embeddings): {total_error(each, with_left_out=True):.3f}."
    )
    print("Largest errors:")
    for error, name in layers[:SHOWN]:
        print(f"  {error:.3f}  {name}")
