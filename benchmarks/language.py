"""The language filter on data whose language is known: rows kept, by data set.

    python -m benchmarks.language FOLDER [--rows N]

FOLDER has `NAME.jsonl.gz` of `query` and `positive`, in folders of its own or not; a set that has `text` and `lang`
instead counts as two, its English and its other texts. The options are the defaults.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jemb.prepare.engine.table import Rows
from jemb.prepare.stages.language import LanguageConfig, by_language, identifier


def sets(folder: Path, most: int | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(name, rows) of each data set."""
    for path in sorted(folder.glob("**/*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = list(islice(map(json.loads, file), most))
        name = str(path.relative_to(folder)).removesuffix(".jsonl.gz")
        if {"query", "positive"} <= rows[0].keys():
            yield name, rows
        elif {"text", "lang"} <= rows[0].keys():
            pairs = [{"query": row["text"], "positive": row["text"], "lang": row["lang"]} for row in rows]
            yield f"{name} (English)", [row for row in pairs if row["lang"].startswith("en")]
            yield f"{name} (others)", [row for row in pairs if not row["lang"].startswith("en")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=None)
    arguments = parser.parse_args()
    identify = identifier(["en"], None)
    print("| data set | rows | kept, % | dropped for |\n|---|---:|---:|---|")
    for name, rows in sets(arguments.folder, arguments.rows):
        piece = Rows(np.arange(len(rows)), [row["query"] for row in rows], [row["positive"] for row in rows])
        verdict = by_language(piece, identify, LanguageConfig())
        reasons = Counter(reason.partition(":")[2] for reason, _ in verdict.dropped.values()).most_common(4)
        kept = 100 * (1 - len(verdict.dropped) / len(rows))
        print(f"| {name} | {len(rows):,} | {kept:.2f} | {', '.join(f'{a} {b}' for a, b in reasons)} |", flush=True)


if __name__ == "__main__":
    main()
