"""The resolvers that the YAML files use: `${if:...}`, `${last_word:...}` and the like."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dreambooth.errors import UserError

# of the DreamBooth dataset, sorted
CLASS_NOUNS = (
    "backpack",
    "boot",
    "bowl",
    "can",
    "candle",
    "cartoon",
    "cat",
    "clock",
    "dog",
    "glasses",
    "sneaker",
    "stuffed animal",
    "teapot",
    "toy",
    "vase",
)


def slug(text: str) -> str:
    """Turn overrides into one folder name, without separators or spaces, of at most 200 characters.

    A longer text keeps a hash of the whole, so that two runs of a sweep never share a folder.
    """
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", text) or "run"
    if len(name) <= 200:
        return name
    return f"{name[:190]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


# where a machine keeps things: of no run's results, and alike in all runs of a sweep
PLACES = re.compile(
    r"(?:^|,)(?:photos\.root|cache_dir|evaluation\.encoders_dir)=.*?(?=,[\w./@+~]+=|$)"
)
# the folders before the last name of an absolute path, which begins a value or stands in a list
FOLDERS = re.compile(r"""(?<=[=,\["'])(?:~|[A-Za-z]:)?[\\/](?:[^,\]"'=]*[\\/])?(?=[^\\/,\]"'=])""")


def without_places(text: str) -> str:
    """Take the paths of a machine out of overrides: `cache_dir=/c,x=/a/b/dog` => `x=dog`."""
    return without_folders(PLACES.sub("", text).lstrip(","))


def without_folders(text: str) -> str:
    """Leave of each absolute path its last part: `x=/a/b/dog` => `x=dog`."""
    return FOLDERS.sub("", text)


def run_folder(text: str, sweep: str) -> str:
    """Name the folder of a sweep's run by its overrides, without paths of the machine.

    A sweep that an earlier version has begun keeps its names, in which these stand.
    """
    earlier, plan = slug(text), Path(sweep) / "sweep.json"
    if plan.is_file() and f'"{earlier}"' in plan.read_text("utf-8"):
        return earlier
    return slug(without_places(text))


def choose(value: object, *pairs: object) -> object:
    """Return the choice for `value`: `${choose:${noun},right,A,none,B,C}`; the last is for any
    other value.

    Raises:
        UserError: a value without a choice.
    """
    choices = dict(zip(pairs[::2], pairs[1::2], strict=False))
    if value in choices:
        return choices[value]
    if len(pairs) % 2:
        return pairs[-1]
    raise UserError(f"{value} is not a choice here: choose {', '.join(map(str, choices))}.")


def scaled(setting: str, *published: float, _root_: DictConfig) -> float | int | str:
    """Turn published settings of Stable Diffusion into the model's: `${scaled:full.lr,5e-6,2e-6}`.

    `conf/model/NAME.yaml` has the factors under `scale`. Numbers of steps and images stay whole,
    and at least 1.

    Returns:
        one number, or several with commas, as a sweep takes them.
    """
    factor = OmegaConf.select(_root_, f"model.scale.{setting}")
    if factor is None:
        raise UserError(f"model.scale.{setting} does not exist: conf/model has the factors.")
    is_rate = setting.endswith("lr")
    values = [v * factor if is_rate else max(1, round(v * factor)) for v in published]
    if len(values) == 1:
        return float(f"{values[0]:.6g}") if is_rate else values[0]
    return ",".join(f"{value:.6g}" for value in values)


def rate(recommended: float, *, _root_: DictConfig) -> float:
    """Turn a rate for AdamW into one for the optimizer: its `own_lr`, or `lr_factor` times it.

    Without either it stays the same.
    """
    own = OmegaConf.select(_root_, "optimizer.own_lr")
    factor = OmegaConf.select(_root_, "optimizer.lr_factor")
    if own is not None:
        return own
    return recommended if factor is None else float(f"{recommended * factor:.6g}")


def at_most(limit: float | None, value: float) -> float:
    """Return the smaller of both; `limit` null is no limit."""
    return value if limit is None else min(limit, value)


def other_noun(noun: str) -> str:
    """Return another class noun of the dataset: the next in the alphabet, and the first at the end.

    A noun that is not in the dataset gets the first.
    """
    following = [other for other in CLASS_NOUNS if other > noun] if noun in CLASS_NOUNS else []
    return following[0] if following else CLASS_NOUNS[0]


def drawing(text: str) -> str:
    """Name the folder of what generate.py draws by its overrides, so that a repeat finds it.

    A name that lost characters keeps a hash of them, so that two commands never share a folder.
    """
    if not text:
        return "default"
    plain = text.replace("'", "")  # the quotes of an axis
    name, digest = slug(without_places(plain)), hashlib.sha256(plain.encode()).hexdigest()[:8]
    return name if name == plain or name.endswith(digest) else f"{name[:190]}-{digest}"


def drawn_in(run: str | None) -> str:
    """Return the folder of what generate.py draws: in the run's, or without a run in `outputs/`.

    Raises:
        UserError: the folder is no finished run's.
    """
    if run is None:
        return "outputs/generated"
    if not (Path(run) / "run.json").is_file():
        from dreambooth.study.finished.sweeps import refuse_sweep  # only where it is needed

        refuse_sweep(Path(run))
        raise UserError(
            f"run={run} is not a finished run (it holds no run.json): give the output folder of a "
            "train.py run that has ended."
        )
    return f"{run}/generated"


def name_of_photos(*, _parent_: DictConfig) -> str:
    """Name a subject after the folder of its photos: `my dog` => `my-dog`; without one `folder`."""
    photos = None if OmegaConf.is_missing(_parent_, "photos") else _parent_.photos
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(os.path.abspath(str(photos))).name)[:64]
    return name.strip(".-") if photos and name.strip(".-") else "folder"


def help_text(command: str, *, _root_: DictConfig) -> str:
    """Return the text of `--help`; `$` is doubled, as Hydra's template needs it."""
    from dreambooth.cli.configuration.help import help_of  # only where it is shown

    return help_of(command, _root_).replace("$", "$$")


for name, function in {
    "if": lambda condition, yes, no: yes if condition else no,
    "choose": choose,
    "scaled": scaled,
    "rate": rate,
    "at_most": at_most,
    "other_noun": other_noun,
    "last_word": lambda text: text.split()[-1],
    "slug": slug,
    "run_folder": run_folder,
    "drawing": drawing,
    "drawn_in": drawn_in,
    "name_of_photos": name_of_photos,
    "help": help_text,
}.items():
    OmegaConf.register_new_resolver(name, function, replace=True)
