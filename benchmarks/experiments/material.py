"""The data of the experiments: a folder that the user has, or the docstrings of the installed packages.

FOLDER/pairs/NAME.jsonl.gz (`query`, `positive`), noise/ (the same in other languages, or with a 0/1 `label`);
triplets/, triplets_dev/, negation/ (`query`, `positive`, `negative`); sts/ (`sentence1`, `sentence2`, `score`);
retrieval/NAME (BEIR).
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

from jemb.core.errors import InputError
from jemb.core.folders import whole_folder
from jemb.demo.corpus import build_corpus
from jemb.tables.records import Bad
from jemb.tables.whole import kind_of, read_table

Row = dict[str, str]

SIMILARITY = ["sts:sts/stsb_en_dev.jsonl.gz", "sts:sts/sick_dev.jsonl.gz"]
RETRIEVAL = ["retrieval:retrieval/quora/dev", "retrieval:retrieval/stackfaq", "retrieval:retrieval/cranfield"]
DOCSTRINGS = ["retrieval:retrieval/docstrings", "negation:negation/docstrings_negated.jsonl"]
"""What is scored, as for `jemb evaluate`, with paths absolute or in the data folder; what is not there is left out."""
SHARED = [*SIMILARITY, *RETRIEVAL, *DOCSTRINGS[:1]]

NUM_DOCSTRINGS = 12_000
FEWEST_ROWS = 600
"""Of a set of docstrings: the filters would leave less than a batch of a smaller one."""


class Material:
    """Reads the sets of one data folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "pairs").is_dir():
            raise InputError(f"--data {folder}: no folder pairs in it; wanted pairs/NAME.jsonl.gz and others")
        self.folder = folder

    def names(self, pattern: str) -> list[str]:
        """`pairs/*` -> the names of the sets that are there, `pairs/…` each."""
        parent = Path(pattern).parent
        found = self.folder.glob(f"{pattern}.jsonl*")
        return sorted(f"{parent}/{path.name.partition('.jsonl')[0]}" for path in found)

    def rows(self, name: str, limit: int | None = None) -> list[Row]:
        """The rows of a set in a random order that depends on its name alone; the first `limit` of them."""
        path = next(self.folder.glob(f"{name}.jsonl*"), None)
        if path is None:
            raise InputError(f"--data {self.folder}: this experiment wants {name}.jsonl or .jsonl.gz in it")
        open_file = gzip.open if path.suffix == ".gz" else open
        with open_file(path, "rt", encoding="utf-8") as file:
            rows: list[Row] = [json.loads(line) for line in file]
        random.Random(name).shuffle(rows)
        return rows[:limit]

    def chosen(self, wanted: Sequence[str]) -> list[str]:
        """Those names of pairs/ that are there; where none is, all of pairs/."""
        there = [name.removeprefix("pairs/") for name in self.names("pairs/*")]
        return [name for name in wanted if name in there] or there

    def tasks(self, wanted: Sequence[str]) -> dict[str, str]:
        """{short name: task as for `jemb evaluate`} of what is there."""
        found = {}
        for task in wanted:
            kind, _, place = task.partition(":")
            path = self.folder / place
            if path.exists():
                name = path.name if Path(place).is_absolute() else place.split("/", 1)[1]
                found[name.removesuffix(".gz").removesuffix(".jsonl")] = f"{kind}:{path}"
        return found


def docstrings(folder: Path) -> Path:
    """A data folder of docstrings, made where it is not there."""
    if not folder.exists():
        with whole_folder(folder) as new:
            corpus = new / "corpus"
            build_corpus(corpus, max_pairs=NUM_DOCSTRINGS, seed=0)
            for source, target in (("raw", "pairs"), ("raw_triplets", "triplets")):
                for path in (corpus / source).iterdir():
                    _convert(path, new / target / f"{path.name.partition('.')[0]}.jsonl")
            (new / "retrieval").mkdir()
            (corpus / "retrieval").rename(new / "retrieval" / "docstrings")
            (new / "negation").mkdir()
            (corpus / "negation.jsonl").rename(new / "negation" / "docstrings_negated.jsonl")
    return folder


def _convert(path: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    kind = kind_of(path.name)
    assert kind is not None
    rows = [item[1] for item in read_table(str(path), kind[0]) if not isinstance(item, Bad)]
    if len(rows) >= FEWEST_ROWS:
        target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
