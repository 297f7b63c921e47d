"""The table at the end of prepare: what came in, what each filter took, what is left.

Before: `run.py` gives the manifests. After: `app/` prints it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from jemb.shards import Manifest

ORDER = ("unreadable", "empty", "identical", "no_negative", "duplicate", "near_duplicate", "language", "consistency")


def funnel(manifest: Manifest) -> dict[str, int]:
    """Rows read, dropped by reason (all of `language:…` as one) and kept; read = kept + the rest."""
    dropped: Counter[str] = Counter()
    for stage in manifest.stages:
        for reason, count in stage.dropped.items():
            dropped[reason.partition(":")[0]] += count
    known = {reason: dropped.pop(reason) for reason in ORDER if dropped[reason]}
    others = {reason: count for reason, count in sorted(dropped.items()) if count}
    drops = known | others
    return {"read": manifest.num_samples + sum(drops.values()), **drops, "kept": manifest.num_samples}


def drop_reasons(funnels: Iterable[Mapping[str, int]]) -> list[str]:
    """The reasons that occur, in the order of the stages."""
    found = {reason for counts in funnels for reason in counts} - {"read", "kept"}
    return sorted(found, key=lambda reason: (ORDER.index(reason) if reason in ORDER else len(ORDER), reason))


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
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _cells(counts: dict[str, int], reasons: list[str]) -> list[str]:
    share = 100 * counts["kept"] / counts["read"] if counts["read"] else 0.0
    numbers = [counts["read"], *(counts.get(reason, 0) for reason in reasons), counts["kept"]]
    return [*(f"{count:,}" for count in numbers), f"{share:.1f}"]
