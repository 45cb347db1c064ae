"""Recognise a run that has finished as it is asked for, without loading any network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import bytes_of, file_hash, folder_hash, reading
from dreambooth.records import FIX, TABLES, first_changed, read_record, read_table
from dreambooth.training.resuming.fingerprint import NEITHER, flat, is_under

Plain = Mapping[str, Any]
ASKED = ("samples.prompts", "samples.seeds", "export")  # what else a run must have drawn
CHOOSES = ("evaluation.every_n_steps", "evaluation.curve")  # the exported step, by checkpoint.best
FINAL_SHEET = "samples/final.png"
PROTOCOL = ("prompts", "images_per_prompt", "class_images", "class_seed")
DRAWN = {  # key of run.json's sampling => the same in the images' provenance
    "scheduler": "sampler",
    "num_inference_steps": "steps",
    **{k: k for k in ("options", "guidance_scale", "resolution", "negative_prompt", "dtype")},
}


def contents(photos: Sequence[Path], config: Plain) -> dict[str, str | None]:
    """Hash what a run's configuration only names: photos with captions, own class images, a LoRA.

    The embedded model's weights come with this package and are hashed too. Those of any other model
    are taken to be what its path and revision name. `folder` is where the photos lie.

    Raises:
        UserError: a file that cannot be read.
    """
    from dreambooth.data.photos import contents_hash, list_photos  # numpy and Pillow
    from dreambooth.pocket.embedded import FOLDERS, weights_hash

    prior, own = config["prior"], None
    if config["ppl"] and config["method"]["uses_prior"] and prior["images_dir"] is not None:
        own = contents_hash(list_photos(prior["images_dir"])[: prior["num_class_images"]])
    initial = {}
    if (start := config.get("init_adapter")) is not None:
        place = Path(start)
        if (place / "model").is_dir():  # a run's folder, in which pictures may be drawn
            place /= "model"
        initial["init_adapter"] = file_hash(place) if place.is_file() else folder_hash(place)
    path = config["model"]["path"]
    return initial | {
        "folder": str(photos[0].parent.absolute()),
        "photos": contents_hash(photos),
        "class_images": own,
        "model": weights_hash(FOLDERS[path]) if path in FOLDERS else None,
    }


def finished(folder: Path, config: Plain) -> dict[str, Plain] | None:
    """Return the scores of the run in `folder`, if nothing of what `config` asks for is missing.

    The configuration that the run ended with is equal in all keys but those in
    `fingerprint.NEITHER`; the photos are the same; and its export, its final samples and the scores
    of the asked evaluation are there; `damaged` reads the files. Photos that are gone are taken to
    be the same.

    Args:
        config: the configuration of a run of train.py, every reference resolved.

    Returns:
        variant id => a record with `metric` and `mean`, as in metrics.json; {} without an
        evaluation; None if the run has to be started.
    """
    if config["resume"] != "auto":
        return None
    try:
        record = read_record(folder / "run.json")
        if not record["finished"] or not _is_equal(record["config"], config):
            return None
        if not _is_there(folder, record) or not _has_same_contents(record, config):
            return None
        return _scores(folder, record, config["evaluation"])
    except (OSError, ValueError, KeyError, TypeError, UserError):  # no record, or an earlier one's
        return None


def _is_equal(before: Plain, now: Plain) -> bool:
    chooses = CHOOSES if now["checkpoint"]["best"] else ()

    def compared(config: Plain) -> dict[str, Any]:
        keys = flat(config).items()
        asked = (*ASKED, *chooses)
        return {k: v for k, v in keys if is_under(k, asked) or not is_under(k, NEITHER)}

    return compared(before) == compared(json.loads(json.dumps(now)))


def _is_there(folder: Path, record: Plain) -> bool:
    """Tell whether the export is as large as it was, and the final samples were drawn."""
    exported = record["costs"]["stages"]["export"]["bytes"]
    return bytes_of(places_of_export(folder)) == exported and (folder / FINAL_SHEET).exists()


def damaged(run: Path) -> Path | None:
    """Find the first file of a finished run's model, exports and last samples that has changed.

    Every one of them is read. The record of an earlier version names fewer of them.

    Raises:
        UserError: a record that cannot be read.
    """
    path = run / "run.json"
    record = read_record(path)
    with reading(path, FIX):
        exported, beside = record.get("exported") or {}, record.get("beside") or {}
        hashes = {f"model/{name}": digest for name, digest in exported.items()} | dict(beside)
    return first_changed(run, hashes)


def changed_logs(run: Path) -> list[Path]:
    """List the logs of a finished run that have changed, which no command can make again.

    Raises:
        UserError: a record that cannot be read.
    """
    path = run / "run.json"
    tables = read_record(path).get(TABLES) or {}
    with reading(path, FIX):
        return [run / name for name in sorted(tables) if first_changed(run, {name: tables[name]})]


def beside_model(run: Path) -> list[Path]:
    """List the files of a finished run, but for its model, whose hashes its record holds."""
    return [*(run / "exports").rglob("*"), *(run / "samples/final").glob("*"), run / FINAL_SHEET]


def places_of_export(run: Path) -> list[Path]:
    """Return the folders of a run that hold its exported model, in all layouts."""
    return [run / "model", run / "exports"]


def _has_same_contents(record: Plain, config: Plain) -> bool:
    from dreambooth.data.photos import list_photos

    folder = Path(record["contents"]["folder"])
    return not folder.is_dir() or record["contents"] == contents(list_photos(folder), config)


def _scores(folder: Path, record: Plain, asked: Plain) -> dict[str, Plain] | None:
    """Return the scores of the asked evaluation; None if it has not scored the run like this."""
    if asked["prompts"] is None:
        return {}
    path = folder / "evaluation" / asked["name"] / "metrics.json"
    metrics, sampling = read_record(path), record["sampling"]
    read_table(path.with_name("scores.csv"), metrics, FIX)
    drawn, protocol = metrics["provenance"], metrics["protocol"]
    is_asked = (
        _are_same(metrics["references"]["files"], record["photos"])
        and set(asked["metrics"]) <= set(metrics["metrics"])
        and metrics["encoders"]["family"] == asked["encoders"]
        and all(protocol[key] == asked[key] for key in PROTOCOL)
        and ("kernel" not in asked["metrics"] or _others(protocol) == _others(asked))
        and all(drawn[name] == sampling[key] for key, name in DRAWN.items())
    )
    return metrics["scores"] if is_asked else None


def _others(block: Plain) -> list[str]:
    return list(block.get("other_classes") or ())


def _are_same(references: Sequence[str], photos: Sequence[str]) -> bool:
    """Tell whether scores compare with a run's own photos; evaluate.py can take others.

    A relative path is of the directory in which the run was started, such as one of the cache.
    """

    def is_same(reference: Path, photo: Path) -> bool:
        if reference.is_absolute():
            return reference.resolve() == photo
        return photo.parts[-len(reference.parts) :] == reference.parts

    pairs = zip(map(Path, references), map(Path, photos), strict=False)
    return len(references) == len(photos) and all(is_same(*pair) for pair in pairs)
