"""Values that no run could use are refused before anything is loaded or written."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.refusals.checks import check
from dreambooth.cli.refusals.command_checks import check_evaluate, check_generate
from dreambooth.errors import UserError
from spine import ROOT, environment

TRAIN = {
    "samples.prompts='a dog'": r"samples.prompts=a dog is not usable: .*samples.prompts=\[",
    "samples.prompts=[]": "samples.prompts must be a list that is not empty",
    "samples.prompts=[1]": "samples.prompts must be a list",
    "samples.seeds=[]": "samples.seeds must be a list that is not empty",
    "samples.seeds=3": r"samples.seeds must be a list .* 'samples.seeds=\[0,1\]'",
    "samples.seeds=[0,-1]": "samples.seeds must be a list",
    "samples.seeds=[true]": "samples.seeds must be a list",
    "samples.seeds=[4294967296]": "each a whole number from 0 to 4294967295",
    "seed=4294967296": "seed must be a whole number from 0 to 4294967295",
    "prior.seed=-1": "prior.seed must be a whole number from 0 to 4294967295",
    "resolution=8": "resolution must be a multiple of 8, 16 or greater",
    "identifier='  '": "identifier must be a text in quotes",
    "samples.prompts=[' ']": "samples.prompts must be a list",
    "cache_dir=5": "cache_dir must be a text in quotes",
    "optimizer._target_=0": "optimizer._target_ must be a text in quotes",
    "model.path=null": "model.path must be a text in quotes",
    "subject.photos=[a,b]": "subject.photos must be null or a folder",
    "subject.photos=''": "subject.photos must be null or a folder",
    "photos.root=5": "photos.root must be null or a folder",
    "init_adapter=/absent": "init_adapter must be null, or a file or folder that exists",
    "resume=false": "resume must be auto, null or a .ckpt",
    "identifier=5": "identifier must be a text in quotes",
    "class_prompt=''": "class_prompt must be a text",
    "seed=true": "seed must be a whole number",
    "subject=world subject.identity=rex": "subject.identity must be a whole number",
    "prior.num_class_images=1000000000000": "prior.num_class_images must be at most 100000",
    "augment.num_crops=100000000": "augment.num_crops must be at most 1000",
    "lr=.inf": "lr must be a finite number",
    "trainer.log_every_n_steps=0": "trainer.log_every_n_steps must be greater than 0",
    "trainer.log_every_n_steps=.nan": "trainer.log_every_n_steps must be a whole number",
    "lr_warmup_steps=10": "no effect with lr_schedule=constant: .*constant_with_warmup",
    "trainer.precision=16": "precision must be one of 32-true, bf16-mixed, 16-mixed",
    "trainer.accelerator=typo": "accelerator must be one of auto",
    "+trainer.device=2": r"trainer\.device is no .*did you mean trainer\.devices\?",
    "+trainer.limit_train_batches=0": r"trainer\.limit_train_batches is no .*set max_steps instead",
    "+trainer.gradient_clip_val=1": "set max_grad_norm instead",
    "+trainer.callbacks=[]": "trainer.callbacks is no argument .* it takes accelerator, devices",
    "evaluation.metrics=dino": "evaluation.metrics must be a list",
}
GENERATE = {
    "prompts='a dog'": r"prompts must be a list .* 'prompts=\[\"a \{subject\}\"\]'",
    "prompts=[]": "prompts must be a list that is not empty",
    "seeds=3": "seeds must be a list",
    "seeds=[4294967296]": "each a whole number from 0 to 4294967295",
    "batch_size=0": "batch_size must be null or a whole number greater than 0",
    "num_inference_steps=-1": "num_inference_steps must be null or a whole",
    "num_inference_steps=2.5": "num_inference_steps must be null or a whole",
    "guidance_scale=-1": "guidance_scale must be null or a number",
    "negative_prompt=null": "negative_prompt must be a text",
    "device=gpu": "device must be one of auto, cpu, cuda",
    "adapter_weight=strong": "adapter_weight must be a finite number",
    "step=-1": "step must be null or a whole number",
    "scheduler=auto": "the sampler of a base model .* leave scheduler out",
    "grid.cell=0": "grid.cell must be a whole number, 16 or greater",
    "grid.x='cfg=1,2'": "grid.x: there is no axis cfg: did you mean guidance_scale?",
    "morph.keyframes=0": "morph.keyframes must be null or a whole number greater than 0",
    "morph.fps=.inf": "morph.fps must be a number greater than 0",
    "morph.size=33": "morph.size must be null or an even number",
    "morph.formats=[avi]": "morph.formats must be a list of gif and mp4",
    "morph.prompts=[]": "morph.prompts must be a list that is not empty",
}
EVALUATE = {
    **{key: GENERATE[key] for key in ("batch_size=0", "num_inference_steps=-1", "device=gpu")},
    "guidance_scale=high": "guidance_scale must be null or a number",
    "evaluation.metrics=dino": r"metrics must be a list .* 'evaluation.metrics=\[dino,clip_t\]'",
    "evaluation.metrics=[]": "evaluation.metrics must be a list that is not empty",
}


def composed(name: str, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*overrides, "output_dir=out"])


@pytest.mark.parametrize("argument", TRAIN)
def test_train_refuses(argument):
    with pytest.raises(UserError, match=TRAIN[argument]):
        check(composed("train", *re.split(r" (?=\w+\.)", argument)))


@pytest.mark.parametrize("argument", GENERATE)
def test_generate_refuses(argument):
    with pytest.raises(UserError, match=GENERATE[argument]):
        check_generate(composed("generate", "run=r", argument))


@pytest.mark.parametrize("argument", EVALUATE)
def test_evaluate_refuses(argument):
    with pytest.raises(UserError, match=EVALUATE[argument]):
        check_evaluate(composed("evaluate", "run=r", argument))


def test_what_is_right_is_let_through():
    resume, seeds = "resume=out/step-000001.ckpt", "samples.seeds=[0]"
    check(composed("train", resume, seeds, "lr_schedule=linear", "lr_warmup_steps=10"))
    check_generate(composed("generate", "run=r", "guidance_scale=0", "batch_size=1", "seeds=[0]"))
    check_evaluate(composed("evaluate", "run=r", "evaluation.metrics=[dino]", "batch_size=2"))


@pytest.mark.parametrize("mode", ["RUN", "MULTIRUN"])
def test_a_folder_that_is_no_run_is_refused_before_folders_are_made(tmp_path, mode):
    command = [sys.executable, str(ROOT / "generate.py"), "run=typo", f"hydra.mode={mode}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and list(tmp_path.iterdir()) == []
    (line,) = done.stderr.splitlines()
    assert re.match("error: run=typo is not a finished run .*: give the output folder", line)
