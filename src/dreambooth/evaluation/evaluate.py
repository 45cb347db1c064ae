"""Draw the images of an evaluation from a fine-tuned model, and score them against the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth.data.prompts import SubjectWords
from dreambooth.evaluation.networks import Encoders
from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.evaluation.record import BOOTSTRAP_SEED, TRAINING, References, Scores
from dreambooth.evaluation.score import score_files
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.draw import draw
from dreambooth.sampling.manifest import Item
from dreambooth.sampling.provenance import Provenance, Weights, network_dtypes
from dreambooth.sampling.spec import Sampling
from dreambooth.sampling.store import ImageStore

Pair = tuple[str, int]  # prompt and seed, all that an image of one model and sampling depends on


@dataclass(frozen=True)
class Evaluation:
    """What to draw of a subject, how, the photos to compare with, and the networks that score.

    `gallery` has photos of the other subjects of its class, by name; `base` the base model's images
    of class prompts, by prompt.
    """

    spec: EvaluationSpec
    subject: SubjectWords
    sampling: Sampling
    photos: Sequence[Path]
    encoders: Encoders
    references: str = TRAINING  # what kind of photos they are
    gallery: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    base: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    @property
    def items(self) -> list[Item]:
        """Every image that is drawn and scored."""
        return self.spec.items(self.subject)

    def drawn(
        self,
        model: BaseModel,
        prompts: Sequence[str],
        seeds: Sequence[int],
        known: Mapping[Pair, Image.Image] | None = None,
    ) -> list[Image.Image]:
        """Draw images of the model as it is now, but for the known ones."""
        images = dict(known or {})
        pairs = list(zip(prompts, seeds, strict=True))
        new = [pair for pair in pairs if pair not in images]
        made = draw(model, [prompt for prompt, _ in new], [seed for _, seed in new], self.sampling)
        images.update(zip(new, made, strict=True))
        return [images[pair] for pair in pairs]

    def score_model(
        self,
        model: BaseModel,
        weights: Weights,
        folder: Path,
        known: Mapping[Pair, Image.Image] | None = None,
    ) -> tuple[Scores, dict[str, Any]]:
        """Draw the images that `folder` lacks, and score them all.

        Args:
            weights: those that the model has, a part of the images' provenance.
            known: images that this model has drawn with the same sampling.

        Returns:
            The scores, and the record that explains them in metrics.json.

        Raises:
            UserError: images that cannot be scored.
        """
        shown = Provenance(weights, self.sampling, tuple(network_dtypes(model)))
        items = self.items
        made = ImageStore(folder, shown.facts, shown.text).fill(
            lambda prompts, seeds: self.drawn(model, prompts, seeds, known),
            items,
            self.sampling.batch_size,
            title="Images to score",
        )
        files = [folder / item.file for item in items]
        references = References(self.photos, self.gallery, self.base)
        scores = score_files(items, files, references, self.encoders, self.spec.metrics)
        return scores, {
            "evaluation": self.spec.name,
            "images_made": made,
            "images": len(items),
            "metrics": list(self.spec.metrics),
            "protocol": self.spec.protocol,
            "provenance": shown.facts,
            "subject": asdict(self.subject),
            "gallery": sorted(self.gallery),
            **explain(self.photos, self.references, self.encoders),
        }


def explain(photos: Sequence[Path], what: str, encoders: Encoders) -> dict[str, Any]:
    """Describe the references, encoders and intervals, as every metrics.json does.

    `what` names a kind of photos, not a folder: it is equal wherever scores may be averaged.
    """
    return {
        "references": {"what": what, "count": len(photos), "files": [str(p) for p in photos]},
        "encoders": {"family": encoders.family, **encoders.ids},
        "intervals": {"level": 0.95, "method": "percentile bootstrap", "seed": BOOTSTRAP_SEED},
    }
