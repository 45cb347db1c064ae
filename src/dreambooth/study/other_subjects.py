"""PRES `other_subjects`: images of the class's other subjects against this one's photos.

The definition of the student study; it needs several subjects of a class under one setting, each
with its own fine-tuned model. See `metrics.preservation.other_subjects_scores`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.evaluation.networks import network_names
from dreambooth.metrics.aggregate import mean
from dreambooth.metrics.encoders import load_encoder
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.preservation import other_subjects_scores
from dreambooth.metrics.variants import dino_id, pres_id
from dreambooth.sampling.store import ImageStore, read_manifest


def add_other_subjects(
    rows: Sequence[dict],
    keys: Iterable[str],
    device: str,
    encoders_dir: str | None,
    cache_dir: str,
) -> None:
    """Add the score to every row of `read_runs` whose setting and seed have another such subject.

    Raises:
        UserError: the encoder cannot be had, or is not the one that the runs were scored with; a
            run's images are not those that its scores are of.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["metrics"].get("provenance"):
            alike = [row["settings"].get(key) for key in keys if key != "subject.name"]
            groups.setdefault(tuple(json.dumps(v) for v in alike), []).append(row)
    encoders: dict[str, Encoder] = {}
    for members in groups.values():
        by_subject = {row["record"]["subject"]["name"]: row for row in members}
        classes = {name: row["record"]["subject"]["class_noun"] for name, row in by_subject.items()}
        nouns = list(classes.values())
        chosen = {n: row for n, row in by_subject.items() if nouns.count(classes[n]) > 1}
        name = network_names(members[0]["metrics"]["encoders"]["family"]).get("dino")
        if not chosen or name is None:
            continue
        if name not in encoders:
            own = members[0]["settings"].get("evaluation.encoders_dir")
            encoders[name] = load_encoder(
                name,
                device=device,
                encoders_dir=encoders_dir or own,
                cache_dir=Path(cache_dir) / "features",
            )
        _add(chosen, classes, encoders[name])


def _add(chosen: dict[str, dict], classes: dict[str, str], encoder: Encoder) -> None:
    generated, real = {}, {}
    for name, row in chosen.items():
        weights = row["metrics"]["encoders"].get("dino", {}).get("weights")
        if weights != encoder.weights_hash:
            raise UserError(
                f"{row['run']} was scored with other weights of {encoder.name}: score the runs "
                "again with evaluate.py, or pass encoders_dir=DIR with those weights."
            )
        images = row["folder"] / "evaluation" / row["metrics"]["evaluation"]
        if not ImageStore(images, row["metrics"]["provenance"]).is_whole():
            raise UserError(
                f"{images} does not hold the images that the run's scores are of: score the run "
                "again with evaluate.py."
            )
        items = [item for item in read_manifest(images) if item.set == "subject"]
        generated[name] = encoder.images([images / item.file for item in items])
        real[name] = encoder.images(row["metrics"]["references"]["files"])
    variant = pres_id("other_subjects", dino_id(encoder.variant))
    for name, scores in other_subjects_scores(generated, real, classes).items():
        chosen[name]["scores"][variant] = mean(scores)
        chosen[name]["names"][variant] = "PRES other subjects"
