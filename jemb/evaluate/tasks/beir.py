"""A retrieval data set in BEIR's layout: `corpus.jsonl`, `queries.jsonl` (or `.gz`) and `qrels/test.tsv`.

Before: `rows.py`. After: `ranking.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

from jemb.core.errors import InputError
from jemb.core.files import read_bytes
from jemb.evaluate.tasks.rows import Row, read_rows

log = logging.getLogger(__name__)

MAX_RELEVANCE = 10_000
"""trec_eval counts passages by relevance in an array of that length: an id in its column would fill the memory."""
Qrels = dict[str, dict[str, int]]
"""For each judged query, in the order of the file: {passage id: relevance}; relevant is > 0."""


def read_beir(path: Path) -> tuple[dict[str, str], dict[str, str], Qrels]:
    """(judged queries, corpus, judgements): texts by id; a passage is title + " " + text.

    path: the folder, whose judgements are `qrels/test.tsv`, else its only `qrels/*.tsv` or `qrels.*.tsv`; or
    one such judgement file of a folder. A judged passage that is not in the corpus is one nobody can find, as
    in trec_eval, with a warning. `InputError` for a judged query that is not in the queries.
    """
    if path.suffix == ".tsv":
        folder, judgements = path.parent.parent if path.parent.name == "qrels" else path.parent, path
    else:
        folder, judgements = path, _find_qrels(path)
    qrels = read_qrels(judgements)
    queries_file, corpus_file = _find(folder, "queries"), _find(folder, "corpus")
    queries = _by_id(queries_file, lambda row: row.text("text"))
    for query in qrels:
        if query not in queries:
            raise InputError(f"{judgements}: query {query!r} is not in {queries_file}")
    corpus = _by_id(corpus_file, _passage)
    judged = [passage for passages in qrels.values() for passage in passages]
    missing = [passage for passage in judged if passage not in corpus]
    if len(missing) == len(judged):
        raise InputError(
            f"{judgements}: none of the {len(judged)} judged passages is in {corpus_file}, "
            f"the first being {missing[0]!r}; wanted the judgements of this corpus"
        )
    if missing:
        log.warning(
            "%s: %d of %d judged passages are not in %s (the first %r): they count as not found",
            judgements, len(missing), len(judged), corpus_file.name, missing[0],
        )  # fmt: skip
    return {query: queries[query] for query in qrels}, corpus, qrels


def read_qrels(path: Path) -> Qrels:
    """Columns with tabs between: query id, passage id, relevance (a whole number); a header line or none."""
    qrels: Qrels = {}
    try:
        lines = read_bytes(path).decode().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error})") from None
    for number, line in enumerate(lines, start=1):
        columns = [column.strip("\ufeff \r") for column in line.split("\t")]
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        if len(columns) != 3:
            raise InputError(
                f"{place}: {len(columns)} columns in {line[:80]!r}; "
                "wanted query id, passage id and relevance with tabs between"
            )
        query, passage, relevance = columns
        try:
            value = float(relevance)
        except ValueError:
            if number == 1 and not any(map(str.isdigit, relevance)):
                continue  # the header
            value = math.nan
        if not (value.is_integer() and abs(value) <= MAX_RELEVANCE):
            raise InputError(
                f"{place}: relevance is {relevance!r}; wanted a whole number, {MAX_RELEVANCE} at most "
                "(columns: query id, passage id, relevance)"
            )
        if qrels.setdefault(query, {}).setdefault(passage, int(value)) != value:
            raise InputError(
                f"{place}: relevance of query {query!r} and passage {passage!r} is {value:g}, "
                f"but {qrels[query][passage]} in an earlier line"
            )
    lacking = sum(not any(value > 0 for value in passages.values()) for passages in qrels.values())
    if lacking == len(qrels):
        raise InputError(f"{path}: no judgement with relevance above 0; nothing to find")
    if lacking:
        log.warning("%s: %d of %d queries have no relevant passage and score 0", path, lacking, len(qrels))
    return qrels


def _passage(row: Row) -> str:
    title = row.text("title") if row.fields.get("title") is not None else ""
    return f"{title} {row.text('text')}".strip()


def _by_id(path: Path, text: Callable[[Row], str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for row in read_rows(path):
        number = row.fields.get("_id")
        key = str(number) if isinstance(number, int) and not isinstance(number, bool) else row.text("_id")
        if key in texts:
            raise InputError(f"{row.place}: field '_id' is {key!r}, which an earlier line has; wanted each id once")
        texts[key] = text(row)
    return texts


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"):
        if path.is_file():
            return path
    raise InputError(f"{folder}: no {name}.jsonl or {name}.jsonl.gz in it; wanted a folder in BEIR's layout")


def _find_qrels(folder: Path) -> Path:
    found = sorted([*folder.glob("qrels/*.tsv"), *folder.glob("qrels.*.tsv"), *folder.glob("qrels.tsv")])
    tests = [path for path in found if path.name in ("test.tsv", "qrels.test.tsv")]
    if len(tests or found) == 1:
        return (tests or found)[0]
    _find(folder, "corpus")  # names the folder first, where that is what is missing
    if not found:
        raise InputError(f"{folder}: no judgements; wanted qrels/test.tsv (or another qrels/*.tsv or qrels.*.tsv)")
    names = ", ".join(str(path.relative_to(folder)) for path in found)
    raise InputError(f"{folder}: several judgement files ({names}); name one: retrieval:{found[0]}")
