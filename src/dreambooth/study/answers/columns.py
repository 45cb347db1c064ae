"""The columns of scores in a table: one for each variant of a metric, with a short heading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreambooth.metrics.variants import lower_is_better
from dreambooth.study.answers.published import Published
from dreambooth.study.finished.scored_runs import ScoredRun

SHORT = {
    "CLIP-T class_only": "CLIP-T",
    "CLIP-T with_id": "CLIP-T id",
    "DIV of class": "DIV class",
    "PRES other subjects": "PRES other",
    "Gallery recall@1": "recall@1",
    "Gallery rank": "rank",
    "Kernel distance own class": "KD class",
    "Kernel distance other classes": "KD others",
}
MAIN = ("DINO", "CLIP-I", "CLIP-T", "PRES", "DIV")  # the metrics that readers look for first


@dataclass(frozen=True)
class Column:
    """One variant of a metric.

    `metric` is its full name, `header` a short one that no other column has. `source_name` is what
    the source of published numbers calls the metric, and `source_variant` what it computed; both
    are None where the source has no such number.
    """

    variant: str
    metric: str
    header: str
    source_name: str | None = None
    source_variant: str | None = None

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower score is the better one."""
        return lower_is_better(self.variant)

    @property
    def arrow(self) -> str:
        """The direction of better scores."""
        return "↓" if self.lower_is_better else "↑"

    @property
    def same_variant(self) -> bool:
        """Whether the source computed this variant, so that numbers compare and not only signs."""
        return self.source_variant == self.variant


def columns_of(runs: Sequence[ScoredRun], published: Published | None = None) -> list[Column]:
    """List a column for each variant that a run has, as `columns_of_metrics` orders them."""
    full = {variant: name for run in runs for variant, name in run.metric_names.items()}
    return columns_of_metrics(full, published)


def columns_of_metrics(full: Mapping[str, str], published: Published | None = None) -> list[Column]:
    """List a column for each variant: first the source's metrics, in its order, then `MAIN`.

    A published number stands beside the variant that the source names, if it is there; else beside
    every variant of the metric of that name.

    Args:
        full: the name of each variant's metric.
    """
    names = {v: SHORT.get(n, n) for v, n in full.items() if not v.startswith("real_ref.")}
    published = published or Published()
    sources = _sources(full, names, published)
    rank = {name: number for number, name in enumerate(dict.fromkeys(sources.values()))}
    main = {name: number for number, name in enumerate(MAIN)}

    def place(variant: str) -> tuple[int, int]:
        source, name = sources.get(variant, ""), names[variant]
        return rank.get(source, len(rank)), main.get(name, len(main))

    columns = []
    for variant in sorted(names, key=place):
        name, source = names[variant], sources.get(variant)
        alike = [v for v in names if names[v] == name]
        header = name if len(alike) == 1 else f"{name} {alike.index(variant) + 1}"
        computed = published.variants.get(source, "") if source else None
        columns.append(Column(variant, full[variant], header, source, computed))
    return columns


def _sources(
    full: Mapping[str, str], names: Mapping[str, str], published: Published
) -> dict[str, str]:
    """Find for each variant the source's name of its metric, in the source's order.

    Args:
        full: the name of each variant's metric.
        names: the short one.
    """
    found: dict[str, str] = {}
    metrics = [*(name for row in published.rows for name in row.scores), *published.variants]
    for metric in dict.fromkeys(metrics):
        stated = published.variants.get(metric, "")
        of_id = [v for v in names if v == stated or v.startswith(f"{stated}.")] if stated else []
        named = [v for v in of_id or names if metric in (full[v], names[v])]
        for variant in named or of_id:
            found.setdefault(variant, metric)
    return found
