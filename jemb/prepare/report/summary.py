"""What came in, what each stage and each reason took, what is left: the numbers, and the table at the end of prepare.

Before: `run.py` gives the manifests. After: `app/` prints the table, `page.py` shows the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from jemb.prepare.registry import all_stages
from jemb.report import text_table
from jemb.shards import Manifest


def meanings() -> dict[str, str]:
    """Reasons in the order of the stages, with what they say of a row. `language` stands for all of `language:…`."""
    found = dict(READ)
    for stage in all_stages().values():
        for reason, meaning in stage.reasons.items():
            found.setdefault(reason, meaning)
    return found


READ = {
    "unreadable": "no row could be made of the record",
    "no_negative": "no negative is left, in data that have negatives",
}
"""Reasons for which a row goes before any stage."""


def funnel(manifest: Manifest) -> dict[str, int]:
    """Rows read, dropped by reason (all of `language:…` as one) and kept; read = kept + the rest."""
    dropped: Counter[str] = Counter()
    for stage in manifest.stages:
        for reason, count in stage.dropped.items():
            dropped[family(reason)] += count
    drops = {reason: dropped[reason] for reason in by_order(dropped) if dropped[reason]}
    return {"read": manifest.num_samples + sum(drops.values()), **drops, "kept": manifest.num_samples}


def family(reason: str) -> str:
    """`language` for `language:de`."""
    return reason.partition(":")[0]


def by_order(reasons: Iterable[str]) -> list[str]:
    """Reasons in the order of the stages, unknown ones last."""
    order = {reason: number for number, reason in enumerate(meanings())}
    return sorted(reasons, key=lambda reason: (order.get(family(reason), len(order)), reason))


def drop_reasons(funnels: Iterable[Mapping[str, int]]) -> list[str]:
    """The reasons that occur, in the order of the stages."""
    return by_order({reason for counts in funnels for reason in counts} - {"read", "kept"})


def summary_table(manifests: Iterable[Manifest]) -> str:
    """One line a data set and one for the total; a column for each reason that occurs. Counts are rows."""
    funnels = {manifest.name: funnel(manifest) for manifest in manifests}
    total: Counter[str] = Counter()
    for counts in funnels.values():
        total.update(counts)
    reasons = drop_reasons(funnels.values())
    header = ["data set", "read", *reasons, "kept", "kept %"]
    if len(funnels) > 1:
        funnels = {**funnels, "total": dict(total)}
    lines = [header, *([name, *_cells(counts, reasons)] for name, counts in funnels.items())]
    return text_table(lines, right=True)


def _cells(counts: dict[str, int], reasons: list[str]) -> list[str]:
    share = 100 * counts["kept"] / counts["read"] if counts["read"] else 0.0
    numbers = [counts["read"], *(counts.get(reason, 0) for reason in reasons), counts["kept"]]
    return [*(f"{count:,}" for count in numbers), f"{share:.1f}"]
