"""What draws: a finished run (`run=DIR`) or a base model (`model=NAME`), with what others made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.configuration.blocks import method_spec
from dreambooth.data.prompts import SubjectWords
from dreambooth.errors import UserError
from dreambooth.model.adapters.additions import Additions
from dreambooth.sampling.spec import Sampling
from dreambooth.study.finished.base_model import PlainModel, PlainWeights
from dreambooth.study.finished.run_weights import RunWeights
from dreambooth.study.finished.runs import Run
from dreambooth.training.spec import MethodSpec

NO_SUBJECT = "give its words, such as 'subject_phrase=\"sks dog\"'"


def additions_of(cfg: DictConfig) -> Additions:
    """Read `adapters=` and `embeddings=`.

    Raises:
        UserError: names the file at fault.
    """
    return Additions.parse(list(cfg.adapters), list(cfg.embeddings))


def source_of(cfg: DictConfig, run: str | None, additions: Additions) -> Run | PlainModel:
    """Return the run in the folder `run`, or the command's base model.

    Raises:
        UserError: neither or both are given, or a run that cannot be read.
    """
    if ("model" in cfg) == (run is not None):
        raise UserError(
            "Say what draws: run=DIR (a finished run) or model=NAME (a base model), one of them."
        )
    if run is None:
        return PlainModel(plain_block(cfg.model), base_sampling(cfg.model), _words(cfg, additions))
    if "subject" in cfg or cfg.get("subject_phrase") is not None:
        raise UserError(
            "subject and subject_phrase are for model=NAME: a run has words of its own, and "
            "prompts can be written out."
        )
    return Run.read(str(run))


def weights_of(
    source: Run | PlainModel, additions: Additions, step: int | None = None
) -> RunWeights | PlainWeights:
    """Return what a source draws with.

    Raises:
        UserError: a step of a base model, which has none.
    """
    if isinstance(source, Run):
        method = None if step is None else recorded_method(source)
        return RunWeights(source, method, step, additions)
    if step is not None:
        raise UserError(f"step={step} needs a run: a base model has no steps.")
    return PlainWeights(source, additions)


def recorded_method(run: Run) -> MethodSpec:
    """Build the method that a run's record names.

    A record is data, maybe a stranger's: no class is imported for it but PEFT's own.

    Raises:
        UserError: a damaged record, or an adapter of another package.
    """
    with run.reading():
        method = run.config["method"]
        target = str((method.get("adapter") or {}).get("_target_", "peft.LoraConfig"))
        if target.partition(".")[0] == "peft":
            return method_spec(method)
    raise UserError(
        f"{run.folder / 'run.json'} names the adapter {target}, and only classes of PEFT are "
        "imported for a record: draw with the exported model, without step and adapter_weight."
    )


def plain_block(block: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what says which model a block `model` means; few have a sequence length."""
    keys = ("name", "path", "revision", "variant", "max_sequence_length")
    return {key: block[key] for key in keys if key in block}


def base_sampling(block: DictConfig) -> Sampling:
    """Sample as class images are: with the model's own settings."""
    sampler: Any = OmegaConf.to_container(block.prior_sampler, resolve=True)
    settings, name, options = block.sampling, sampler["name"], sampler["options"]
    steps, guidance = settings.num_inference_steps, settings.guidance_scale
    size = settings.batch_size
    return Sampling(name, steps, guidance, block.resolution, size, options)


def _words(cfg: DictConfig, additions: Additions) -> SubjectWords:
    """Name the subject: as the command does, by the first token, or by its class.

    Nobody but its author knows the words of an adapter; without any, the phrase is empty.
    """
    noun, live = "", False
    if "subject" in cfg:
        noun, live = cfg.subject.class_noun, cfg.subject.live
    tokens = [each.token for each in additions.embeddings]
    phrase = (
        cfg.get("subject_phrase") or next(iter(tokens), "") or ("" if additions.adapters else noun)
    )
    noun = noun or phrase.partition(" ")[2] or phrase
    return SubjectWords(phrase, noun, f"a {noun}", live)
