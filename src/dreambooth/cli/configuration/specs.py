"""Turn a composed training configuration into the frozen values that a run works with.

Whatever can be refused before the first expensive step is refused here, by the key at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.configuration.blocks import (
    Made,
    checkpoint_spec,
    loss_spec,
    method_spec,
    named,
    optimizer_spec,
    sampling_spec,
    timestep_settings,
)
from dreambooth.cli.configuration.exports import export_spec
from dreambooth.cli.configuration.hardware import hardware_spec
from dreambooth.cli.configuration.subjects import same_class
from dreambooth.cli.drawing.sources import plain_block
from dreambooth.cli.sweeps.run_names import flat_config, group_name, job_overrides, run_name
from dreambooth.data.crops import Crops
from dreambooth.data.prompts import SubjectWords
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import METRICS
from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.sampling.samples import SampleSet
from dreambooth.sampling.spec import Sampling
from dreambooth.study.tables import ReportSpec
from dreambooth.training.output_spec import CurveSpec, LoggerSpec, ReuseSpec, SamplesSpec
from dreambooth.training.spec import DataSpec, ModelSpec, PriorSpec, SubjectSpec, TrainSpec


def train_spec(cfg: DictConfig) -> TrainSpec:
    """Build the values of one run of train.py.

    Raises:
        UserError: a setting that no run could use, or that this machine cannot; names its key.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    subject = _of("subject", _subject, config)
    sampling = _of("sampling", sampling_spec, config, "sampling", "scheduler")
    method = _of("method", method_spec, config["method"])
    return TrainSpec(
        folder=Path(config["output_dir"]),
        cache_dir=Path(config["cache_dir"]),
        seed=config["seed"],
        model=_of("model", lambda block: ModelSpec(**plain_block(block)), config["model"]),
        subject=subject,
        data=_of("augment and loss", _data, config),
        prior=_of("prior", _prior, config),
        method=method,
        init_adapter=config["init_adapter"],
        loss=_of("loss", loss_spec, config),
        optimizer=_of("optimizer", optimizer_spec, config),
        hardware=_of("trainer", hardware_spec, config),
        checkpoint=_of("checkpoint", checkpoint_spec, config),
        export=_of("export", export_spec, config["export"], method),
        reuse=_of("reuse", lambda block: ReuseSpec(**block), config["reuse"]),
        samples=_of("samples", _samples, config, subject.words, sampling),
        sampling=sampling,
        evaluation=_of("evaluation", evaluation_spec, config["evaluation"]),
        curve=_of("evaluation", _curve, config),
        logger=_of("logger", _logger, config),
        config=config,
        written=plain(cfg),
    )


def _of(keys: str, make: Callable[..., Made], *args: Any) -> Made:
    """Make a part of the specification, and name its keys where nothing else does.

    Raises:
        UserError: a value of another kind than its key takes, which no check of that key has found.
    """
    try:
        return make(*args)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise UserError(
            f"{keys} cannot be read ({error!r}): a key is not known, or its value of another kind "
            f"than it takes; correct what you set of {keys}, which --help explains."
        ) from error


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as it is written, references between keys unresolved."""
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    return written


def evaluation_spec(block: Mapping[str, Any]) -> EvaluationSpec | None:
    """Build the scores at the end from an `evaluation/*.yaml` block; None with `evaluation=none`.

    Raises:
        UserError: unknown metrics, networks or prompts, or too few images.
    """
    if block["prompts"] is None:
        return None
    own = {k: v for k, v in block.items() if k not in ("every_n_steps", "curve")}
    lists = {key: tuple(own[key]) for key in ("metrics", "other_classes")}
    return named("evaluation", EvaluationSpec, **{**own, **lists})


def report_spec(cfg: DictConfig) -> ReportSpec:
    """Build what report.py shows."""
    evaluation = cfg.evaluation.name if "evaluation" in cfg else None
    keys = ("other_subjects", "device", "encoders_dir", "cache_dir", "wandb")
    return ReportSpec(Path(cfg.runs), evaluation, **{key: cfg[key] for key in keys})


def _samples(config: Mapping[str, Any], words: SubjectWords, sampling: Sampling) -> SamplesSpec:
    block = config["samples"]
    templates, seeds = block["prompts"], block["seeds"]
    make = SampleSet.of_templates
    drawn = named("samples.prompts", make, templates, words, seeds, sampling)
    return SamplesSpec(drawn, block["every_n_steps"])


def _subject(config: Mapping[str, Any]) -> SubjectSpec:
    subject, photos = config["subject"], config["photos"]
    is_of_world = "identity" in subject  # rendered; no dataset holds it
    words = SubjectWords(
        config["subject_phrase"],
        subject["class_noun"],
        config["class_prompt"],
        subject["live"],
    )
    return SubjectSpec(
        subject["name"],
        words,
        config["identifier"],
        config["instance_prompt"],
        subject["photos"],
        None if is_of_world else photos["root"],
        photos["rendered"] if config["model"]["rendered_subjects"] else None,
        photos["use"],
        same_class(subject["name"], subject["class_noun"]),
    )


def _data(config: Mapping[str, Any]) -> DataSpec:
    return DataSpec(
        Crops(config["resolution"], **config["augment"]),
        config["batch_size"],
        config["prior"]["batch_size"],
        config["pairing"],
        config["loss"]["noise_offset"],
        timestep_settings(config["loss"]),
    )


def _prior(config: Mapping[str, Any]) -> PriorSpec | None:
    """Build the prior loss's settings; they are checked even if the run does not use them."""
    prior = config["prior"]
    last = prior["seed"] + prior["num_class_images"] - 1
    if last >= 2**32:
        raise UserError(
            f"prior.seed={prior['seed']} is not usable: {prior['num_class_images']} class images "
            f"need the seeds up to {last}, and a seed must be less than 2^32."
        )
    spec = PriorSpec(
        prior["kind"],
        prior["num_class_images"],
        prior["images_dir"],
        prior["seed"],
        sampling_spec(config, "prior", "prior.sampler"),
    )
    return spec if config["ppl"] and config["method"]["uses_prior"] else None


def _curve(config: Mapping[str, Any]) -> CurveSpec | None:
    """Build the scores while training; None if the run has none.

    Raises:
        UserError: an interval that is not a number of steps, or as `evaluation_spec`.
    """
    block = config["evaluation"]
    every = block["every_n_steps"]
    if not isinstance(every, int) or isinstance(every, bool) or every < 0:
        raise UserError(f"evaluation.every_n_steps={every} must be a whole number, 0 or greater.")
    if not every:
        return None
    shared = {key: block[key] for key in ("class_seed", "encoders", "encoders_dir")}
    shared |= {"name": "curve", "metrics": METRICS, "other_classes": ()}
    values = {**block["curve"], **shared}
    return CurveSpec(named("evaluation.curve", EvaluationSpec, **values), every)


def _logger(config: Mapping[str, Any]) -> LoggerSpec:
    block, overrides = config["logger"], job_overrides()
    names = [config[group]["name"] for group in ("subject", "model", "method")]
    return LoggerSpec(
        block["wandb"],
        block["tensorboard"],
        block["project"],
        block["name"] or run_name(config, overrides),
        block["group"] or group_name(config),
        (*names, *block["tags"]),
        block["artifacts"],
        block["wait"],
        flat_config(config, overrides),
    )
