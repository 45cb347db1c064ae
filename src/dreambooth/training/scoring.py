"""What scores a run: the evaluation of its model, and the curve while it trains."""

from __future__ import annotations

import logging

from dreambooth.data.subjects import gallery_photos
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import Curve
from dreambooth.evaluation.evaluate import Evaluation
from dreambooth.evaluation.networks import load_encoders
from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.training.prepare import Prepared

log = logging.getLogger(__name__)


def make_curve(prepared: Prepared) -> Curve | None:
    """Make the curve that the run asks for, or warn that its networks are not available.

    Raises:
        UserError: they are not available, and the curve chooses the exported step or the last one.
    """
    spec = prepared.spec
    if spec.curve is None:
        return None
    try:
        evaluation = make_evaluation(prepared, spec.curve.evaluation)
    except UserError as error:
        if spec.checkpoint.best is not None or spec.checkpoint.patience is not None:
            raise
        log.warning("This run has no curve: %s", error)
        return None
    before = spec.method.steps_before(len(spec.method.phases) - 1)
    best_after = before if spec.checkpoint.best is not None else None
    return Curve(evaluation, prepared.weights, spec.folder, best_after)


def make_evaluation(prepared: Prepared, settings: EvaluationSpec) -> Evaluation:
    """Load the networks that `settings` name, to score this run's subject.

    Raises:
        UserError: weights that are not available.
    """
    spec = prepared.spec
    encoders = load_encoders(
        settings.encoders,
        settings.metrics,
        spec.hardware.device,
        settings.encoders_dir,
        str(spec.cache_dir),
    )
    subject, gallery = spec.subject, {}
    if "gallery" in settings.metrics:
        gallery = gallery_photos(
            subject.gallery,
            subject.words.class_noun,
            subject.photos,
            subject.root,
            subject.rendered,
            spec.cache_dir,
        )
    return Evaluation(
        settings,
        subject.words,
        spec.sampling,
        prepared.photos,
        encoders,
        prepared.references,
        gallery,
        prepared.base,
    )
