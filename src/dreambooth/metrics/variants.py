"""Ids of scores: every number is stored under the id of exactly what was computed.

An id is a list of fields with dots between them, for example
`dino.vits16.hub.r256c224_bicubic.allpairs.macro`. The encoder's part is `Encoder.variant` or
`PerceptualDistance.variant`. Fields that nothing here computes name other tools' numbers.
"""

from __future__ import annotations

from dreambooth.errors import UserError

PAIRINGS = ("allpairs", "paired", "oneref", "max")
AVERAGES = ("macro", "micro")
TEXTS = ("with_id", "class_only", "subject_removed")
SCALES = ("cos", "x100", "clipscore2.5")
KERNELS = ("own_class", "other_classes")
GALLERIES = ("recall1", "rank")
PRESERVATIONS = ("class_prompt", "other_subjects", "adapter_drift")
KINDS = {"clip_t": TEXTS, "kernel": KERNELS, "gallery": GALLERIES, "pres": PRESERVATIONS}
PLAIN_KINDS = {"clip_t": "class_only", "kernel": "own_class", "pres": "class_prompt"}


def _one_of(value: str, allowed: tuple[str, ...], field: str) -> str:
    if value not in allowed:
        raise UserError(f"{field}={value} is not a variant: use one of {', '.join(allowed)}.")
    return value


def _family(encoder: str, prefix: str, metric: str) -> str:
    family, _, rest = encoder.partition(".")
    if family != prefix or not rest:
        raise UserError(f"{metric} is computed with a {prefix} encoder, not with {encoder}.")
    return rest


def _pairing(pairing: str, average: str) -> str:
    return f"{_one_of(pairing, PAIRINGS, 'pairing')}.{_one_of(average, AVERAGES, 'average')}"


def dino_id(encoder: str, pairing: str = "allpairs", average: str = "macro") -> str:
    """Name a DINO score.

    >>> dino_id("dino.vits16.hub.r256c224_bicubic")
    'dino.vits16.hub.r256c224_bicubic.allpairs.macro'

    Args:
        encoder: the `variant` of a DINO encoder.

    Raises:
        UserError: another kind of encoder, or a field that is no variant.
    """
    rest = _family(encoder, "dino", "DINO")
    return f"dino.{rest}.{_pairing(pairing, average)}"


def clip_i_id(encoder: str, pairing: str = "allpairs", average: str = "macro") -> str:
    """Name a CLIP-I score; errors as `dino_id`.

    >>> clip_i_id("clip.b32")
    'clip_i.b32.allpairs.macro'
    """
    rest = _family(encoder, "clip", "CLIP-I")
    return f"clip_i.{rest}.{_pairing(pairing, average)}"


def clip_t_id(encoder: str, text: str, scale: str = "cos") -> str:
    """Name a CLIP-T score by what was left of the prompt; errors as `dino_id`.

    >>> clip_t_id("clip.b32", "class_only")
    'clip_t.b32.class_only.matched.cos'
    """
    rest = _family(encoder, "clip", "CLIP-T")
    return f"clip_t.{rest}.{_one_of(text, TEXTS, 'text')}.matched.{_one_of(scale, SCALES, 'scale')}"


def pres_id(kind: str, dino: str) -> str:
    """Name a PRES score by its kind and the whole id of its DINO; errors as `dino_id`.

    >>> pres_id("class_prompt", dino_id("dino.pocket.sq64_bicubic"))
    'pres.class_prompt.dino.pocket.sq64_bicubic.allpairs.macro'
    """
    _family(dino, "dino", "PRES")
    return f"pres.{_one_of(kind, PRESERVATIONS, 'preservation')}.{dino}"


def div_id(distance: str, images_per_prompt: int) -> str:
    """Name a DIV score by its distance's `variant`; errors as `dino_id`.

    >>> div_id("lpips.alex.v0.1.512", 4)
    'div.lpips.alex.v0.1.512.within_prompt.4'
    """
    _family(distance, "lpips", "DIV")
    return f"div.{distance}.within_prompt.{images_per_prompt}"


def real_ref_id(metric: str, *, include_self: bool) -> str:
    """Name a real-image row by the DINO or CLIP-I id that it belongs to; errors as `dino_id`.

    >>> real_ref_id("clip_i.b32.allpairs.macro", include_self=False)
    'real_ref.clip_i.b32.allpairs.macro.exclude_self'
    """
    _one_of(metric.split(".")[0], ("dino", "clip_i"), "real-image metric")
    return f"real_ref.{metric}.{'include_self' if include_self else 'exclude_self'}"


def gallery_id(kind: str, dino: str) -> str:
    """Name a gallery score by its kind and the whole id of its DINO; errors as `dino_id`.

    >>> gallery_id("recall1", dino_id("dino.pocket.sq64_bicubic"))
    'gallery.recall1.dino.pocket.sq64_bicubic.allpairs.macro'
    """
    _family(dino, "dino", "gallery identity")
    return f"gallery.{_one_of(kind, GALLERIES, 'gallery')}.{dino}"


def kernel_id(kind: str, dino: str) -> str:
    """Name a kernel distance by the class that it is of and its encoder; errors as `dino_id`.

    >>> kernel_id("own_class", "dino.pocket.sq64_bicubic")
    'kernel.own_class.dino.pocket.sq64_bicubic.poly3'

    Args:
        dino: the `variant` of a DINO encoder.
    """
    _family(dino, "dino", "the kernel distance")
    return f"kernel.{_one_of(kind, KERNELS, 'kernel')}.{dino}.poly3"


def lower_is_better(variant: str) -> bool:
    """Tell whether a score is better when it is lower: PRES, a gallery's rank, kernel distances.

    >>> lower_is_better("pres.class_prompt.dino.pocket.sq64_bicubic.allpairs.macro")
    True
    """
    return variant.startswith(("pres.", "gallery.rank.", "kernel."))


def short_id(variant: str) -> str:
    """Shorten an id to the metric and what of it no setting of an evaluation chooses.

    >>> short_id("dino.pocket.sq64_bicubic.allpairs.macro")
    'dino'
    >>> short_id("clip_t.b32.with_id.matched.cos")
    'clip_t_with_id'

    The kinds in `PLAIN_KINDS` are not named: `clip_t`, `pres`. What is no id stays as it is.
    """
    metric, _, rest = variant.partition(".")
    fields = rest.split(".")
    if metric == "real_ref":
        return f"real_{fields[0]}" + ("_with_self" if fields[-1] == "include_self" else "")
    kind = next((name for name in fields if name in KINDS.get(metric, ())), None)
    return metric if kind in (None, PLAIN_KINDS.get(metric)) else f"{metric}_{kind}"
