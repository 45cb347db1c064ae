"""PRES `other_subjects`: images of the class's other subjects against this one's photos.

It needs several subjects of a class under one setting, each with its own fine-tuned model. This is
the definition of the student study that `conf/evaluation/cornell.yaml` names; see
`metrics.preservation.other_subjects_scores`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.evaluation.networks import network_names
from dreambooth.evaluation.write import scores_folder
from dreambooth.metrics.aggregate import mean
from dreambooth.metrics.encoders import load_encoder
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.preservation import other_subjects_scores
from dreambooth.metrics.variants import dino_id, pres_id
from dreambooth.sampling.manifest import read_manifest
from dreambooth.sampling.store import ImageStore
from dreambooth.study.finished.scored_runs import ScoredRun


def with_other_subjects(
    runs: Sequence[ScoredRun],
    keys: Iterable[str],
    device: str,
    encoders_dir: str | None,
    cache_dir: str,
) -> list[ScoredRun]:
    """Add the score to every run whose setting and seed have another subject of the class.

    Args:
        keys: the settings that vary; runs that differ in the subject alone are compared.
        encoders_dir: a folder with the networks; None takes the folder of each run.

    Raises:
        UserError: the encoder is not available, or is not the one that the runs were scored with;
            or a run's images are not those of its scores.
    """
    groups: dict[tuple, dict[str, ScoredRun]] = {}
    for run in runs:
        if run.metrics.get("provenance"):
            alike = [run.settings.get(key) for key in keys if key != "subject.name"]
            group = groups.setdefault(tuple(json.dumps(value) for value in alike), {})
            group[run.run.record["subject"]["name"]] = run
    encoders: dict[str, Encoder] = {}
    scored: dict[Path, ScoredRun] = {}
    for group in groups.values():
        classes = {name: run.run.record["subject"]["class_noun"] for name, run in group.items()}
        nouns = list(classes.values())
        chosen = {name: run for name, run in group.items() if nouns.count(classes[name]) > 1}
        first = next(iter(group.values()))
        network = network_names(first.metrics["encoders"]["family"]).get("dino")
        if not chosen or network is None:
            continue
        if network not in encoders:
            encoders[network] = load_encoder(
                network,
                device=device,
                encoders_dir=encoders_dir or first.settings.get("evaluation.encoders_dir"),
                cache_dir=Path(cache_dir) / "features",
            )
        scored |= {r.run.folder: r for r in _scored(chosen, classes, encoders[network])}
    return [scored.get(run.run.folder, run) for run in runs]


def _scored(
    chosen: Mapping[str, ScoredRun], classes: Mapping[str, str], encoder: Encoder
) -> list[ScoredRun]:
    """Score the runs of one setting, by subject, against each other's photos."""
    generated, real = {}, {}
    for name, run in chosen.items():
        weights = run.metrics["encoders"].get("dino", {}).get("weights")
        if weights != encoder.weights_hash:
            raise UserError(
                f"{run.name} was scored with other weights of {encoder.name}: score the runs "
                "again with evaluate.py, or pass encoders_dir=DIR with those weights."
            )
        images = scores_folder(run.run.folder, run.metrics["evaluation"])
        if not ImageStore(images, run.metrics["provenance"]).is_whole():
            raise UserError(
                f"{images} does not hold the images that the run's scores are of: score the run "
                "again with evaluate.py."
            )
        items = [item for item in read_manifest(images) if item.set == "subject"]
        generated[name] = encoder.images([images / item.file for item in items])
        real[name] = encoder.images(run.metrics["references"]["files"])
    variant = pres_id("other_subjects", dino_id(encoder.variant))
    scores = other_subjects_scores(generated, real, classes)
    return [
        chosen[name].with_score(variant, "PRES other subjects", mean(values))
        for name, values in scores.items()
    ]
