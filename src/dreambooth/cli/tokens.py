"""The work of `dreambooth tokens`: words ranked as identifiers, with a sheet and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.table import Table

from dreambooth.cli.drawing.cells import sampling_of
from dreambooth.cli.drawing.sources import base_sampling, plain_block
from dreambooth.data.prompts import SubjectWords
from dreambooth.errors import UserError
from dreambooth.evaluation.identifiers import Measured, Words, measure, prediction_shifts
from dreambooth.evaluation.networks import Encoders, load_encoders
from dreambooth.files import atomic, write_csv
from dreambooth.model.adapters.additions import Additions
from dreambooth.model.identifiers import rare, token_count
from dreambooth.model.interface import BaseModel
from dreambooth.random import keyed_generator
from dreambooth.sampling.draw import draw, torch_device
from dreambooth.sampling.grid import Labels, labelled_grid
from dreambooth.sampling.provenance import LOADED_DTYPES, Provenance
from dreambooth.sampling.store import ImageStore
from dreambooth.study.finished.base_model import PlainModel, PlainWeights

CELL = 128  # side of a picture on the sheet, pixels


def tokens(cfg: DictConfig) -> int:
    """Write `tokens.csv` and `tokens.png`, print the table; return 0.

    Raises:
        UserError: a model or networks that are not there.
    """
    device, folder = torch_device(cfg.device), Path(cfg.output_dir)
    words = Words(cfg.class_noun, cfg.images, cfg.seed)
    subject = SubjectWords(cfg.class_noun, cfg.class_noun, words.prompt(), False)
    source = PlainModel(plain_block(cfg.model), base_sampling(cfg.model), subject)
    sampling, weights = sampling_of(cfg, source), PlainWeights(source, Additions())
    encoders = _encoders(cfg, device)
    model = weights.load().to(device)
    candidates = _candidates(cfg, model)
    shown = Provenance(weights.describe(), sampling, LOADED_DTYPES)
    store = ImageStore(folder / "images", shown.facts, shown.text)

    def drawn(chosen: Sequence[str], title: str) -> None:
        items = words.items(chosen)
        store.fill(
            lambda prompts, seeds: draw(model, prompts, seeds, sampling),
            items,
            sampling.batch_size,
            keep_others=not chosen,
            title=title,
        )

    def files(word: str) -> list[Path]:
        prompt = words.prompt(word)
        items = words.items([word] if word else [])
        return [folder / "images" / item.file for item in items if item.prompt == prompt]

    drawn([], "Pictures of the class")
    images = [Image.open(path) for path in files("")[: cfg.images]]
    shifts = prediction_shifts(model, words, candidates, images)
    best = sorted(candidates, key=lambda word: (shifts[word], word))[: cfg.drawn]
    drawn(best, "Pictures of the words")
    found = measure(words, {word: shifts[word] for word in best}, files, encoders)
    rest = [(word, shift) for word, shift in shifts.items() if word not in best]
    rows = [_row(model, each) for each in found]
    rows += [
        {"word": word, "tokens": token_count(model.tokenizer, word), "prediction_shift": shift}
        for word, shift in sorted(rest, key=lambda pair: pair[1])
    ]
    write_csv(folder / "tokens.csv", rows, list(rows[0]))
    _write_sheet(cfg, words, [each.word for each in found], files, folder / "tokens.png")
    _print(cfg, rows[: len(found)], len(candidates))
    print(f"{folder / 'tokens.csv'}\n{folder / 'tokens.png'}")
    return 0


def _encoders(cfg: DictConfig, device: str) -> Encoders:
    """Load the networks that compare pictures, whose keys stand in no block here."""
    try:
        needed = ["dino", "div"]
        return load_encoders(cfg.encoders, needed, device, cfg.encoders_dir, str(cfg.cache_dir))
    except UserError as error:
        raise UserError(str(error).replace("evaluation.encoders", "encoders")) from error


def _candidates(cfg: DictConfig, model: BaseModel) -> list[str]:
    """The command's words, or `screened` of the model's rare ones, drawn by the seed."""
    if cfg.candidates is not None:
        return list(dict.fromkeys(word.strip() for word in cfg.candidates))
    words = rare(model.tokenizer, cfg.model.path)
    if not words:
        raise UserError(
            f"no word to try: none of {len(model.tokenizer)} tokens of {cfg.model.path} is a rare "
            "word of three to five letters. Name words to rank, such as 'candidates=[sks,zwx]'."
        )
    order = torch.randperm(len(words), generator=keyed_generator(cfg.seed, "tokens")).tolist()
    return sorted(words[number] for number in order[: cfg.screened])


def _row(model: BaseModel, each: Measured) -> dict[str, Any]:
    numbers = asdict(each)
    word = numbers.pop("word")
    return {"word": word, "tokens": token_count(model.tokenizer, word), **numbers}


def _write_sheet(
    cfg: DictConfig, words: Words, found: Sequence[str], files: Any, path: Path
) -> None:
    """Write the pictures, the class first and the weakest prior next."""
    pictures = []
    for word in ["", *found]:
        for file in files(word)[: words.images]:
            with Image.open(file) as image:
                pictures.append(image.convert("RGB"))
    title = f"{cfg.model.name}: words as identifiers, the weakest prior first"
    seeds = [f"seed {words.seed + number}" for number in range(words.images)]
    rows = [words.prompt(word) for word in ["", *found]]
    with atomic(path) as temporary:
        labelled_grid(pictures, Labels(title, seeds, rows), CELL).save(temporary, format="PNG")


def _print(cfg: DictConfig, rows: Sequence[dict[str, Any]], screened: int) -> None:
    table = Table(title=f"{cfg.model.name}, {cfg.class_noun}: {len(rows)} of {screened} words")
    for name in ("word", "tokens", "prediction shift", "image shift", "diversity change", "rank"):
        table.add_column(name, justify="left" if name == "word" else "right")
    for row in rows:
        numbers = [row["prediction_shift"], row["image_shift"], row["diversity_change"]]
        cells = [f"{number:+.3f}" for number in numbers]
        table.add_row(row["word"], str(row["tokens"]), *cells, f"{row['rank']:.1f}")
    Console().print(table)
    print("0 everywhere: the word changes nothing. Rank: the mean of its ranks by the three sizes.")
