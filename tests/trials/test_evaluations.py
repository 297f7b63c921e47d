"""Evaluation sets with mistakes in them: refused by file and line, so that no wrong score comes out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.trials.damage import cut, gone, put
from tests.trials.fault import Break, Fault, check, refused, repaired
from tests.trials.world import EVALUATE

STS, BEIR, NEGATION, RERANKING = (
    EVALUATE.format(task)
    for task in ("sts:eval/sts.jsonl", "retrieval:eval/beir", "negation:eval/negation.jsonl", "reranking:eval/reranking.jsonl")
)  # fmt: skip
QRELS, CORPUS, QUERIES = "eval/beir/qrels/test.tsv", "eval/beir/corpus.jsonl", "eval/beir/queries.jsonl"


def row(name: str, number: int, **changed: object) -> Break:
    """A JSON-lines file with that line's fields changed; None takes a field away."""

    def edit(world: Path) -> None:
        rows = [json.loads(line) for line in (world / name).read_text().splitlines()]
        rows[number - 1] = {key: value for key, value in {**rows[number - 1], **changed}.items() if value is not None}
        (world / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return edit


def more(name: str, data: str | bytes) -> Break:
    def add(world: Path) -> None:
        with (world / name).open("ab") as file:
            file.write(data.encode() if isinstance(data, str) else data)

    return add


def constant(world: Path) -> None:
    rows = [json.loads(line) for line in (world / "eval/sts.jsonl").read_text().splitlines()]
    put("eval/sts.jsonl", "".join(json.dumps({**row, "score": 3}) + "\n" for row in rows))(world)


S, N, R = "eval/sts.jsonl", "eval/negation.jsonl", "eval/reranking.jsonl"
FAULTS = [
    refused("sts missing", STS.replace("sts.jsonl", "stss.jsonl"), None, "eval/stss.jsonl", "sts.jsonl"),
    refused("sts empty", STS, put(S, ""), S, "no rows"),
    refused("sts a folder", STS.replace("/sts.jsonl", ""), None, "eval"),
    refused("sts of an unknown format", STS.replace("sts.jsonl", "sts.txt"), put("eval/sts.txt", "a"), "eval/sts.txt"),
    refused("sts line not JSON", STS, more(S, "{\n"), "line 9"),
    refused("sts line cut off", STS, cut(S, 9), "line 8"),
    refused("sts in UTF-16", STS, put(S, '{"a": 1}\n'.encode("utf-16")), S, "UTF-16"),
    refused("sts without a field", STS, row(S, 3, sentence2=None), "line 3", "sentence2"),
    refused("sts with a number for a text", STS, row(S, 3, sentence2=7), "line 3", "sentence2"),
    refused("sts with a word for a score", STS, row(S, 3, score="high"), "line 3", "score"),
    refused("sts with NaN for a score", STS, row(S, 3, score=float("nan")), "line 3", "score"),
    refused("sts with true for a score", STS, row(S, 3, score=True), "line 3", "score"),
    refused("sts with one score for all", STS, constant, S),
    refused("sts of one pair", STS, lambda w: put(S, (w / S).read_text().splitlines()[0])(w), S),
    refused("sts a named pipe", STS, lambda w: ((w / S).unlink(), os.mkfifo(w / S)), S),
    refused("beir without judgements", BEIR, gone(QRELS), "eval/beir"),
    refused("beir without a corpus", BEIR, gone(CORPUS), "corpus.jsonl"),
    refused("beir without queries", BEIR, gone(QUERIES), "queries.jsonl"),
    refused("beir judgements with two columns", BEIR, more(QRELS, "q1\tp1\n"), "line 10"),
    refused("beir judgements with spaces", BEIR, more(QRELS, "q1 p2 1\n"), "line 10"),
    refused("beir judgement of a word", BEIR, more(QRELS, "q1\tp2\tgood\n"), "line 10", "good"),
    refused("beir judgement of half", BEIR, more(QRELS, "q1\tp2\t0.5\n"), "line 10", "0.5"),
    refused("beir judgement NaN", BEIR, more(QRELS, "q1\tp2\tnan\n"), "line 10"),
    refused("beir judgement without end", BEIR, more(QRELS, "q1\tp2\tinf\n"), "line 10"),
    refused("beir judgements that differ", BEIR, more(QRELS, "q1\tp1\t2\n"), "line 10", "earlier"),
    refused("beir judgements of an unknown query", BEIR, more(QRELS, "q99\tp1\t1\n"), "q99"),
    refused("beir judgements of another corpus", BEIR, lambda w: put(QRELS, (w / QRELS).read_text().replace("\tp", "\tx"))(w), "test.tsv"),
    refused("beir judgements none relevant", BEIR, lambda w: put(QRELS, (w / QRELS).read_text().replace("\t1\n", "\t0\n"))(w), "test.tsv"),
    repaired("beir judgement of a passage that is not there", BEIR, more(QRELS, "q1\tp99\t1\n"), "p99"),
    refused("beir id twice", BEIR, more(CORPUS, '{"_id": "p1", "text": "again"}\n'), "line 9", "p1"),
    refused("beir passage without text", BEIR, row(CORPUS, 2, text=None), "line 2", "text"),
    refused("beir passage with a number", BEIR, row(CORPUS, 2, text=2), "line 2", "text"),
    refused("beir empty corpus", BEIR, put(CORPUS, ""), "corpus.jsonl"),
    refused("beir a file", BEIR.replace("eval/beir", "eval/sts.jsonl"), None, "eval/sts.jsonl"),
    refused("negation without negatives", NEGATION, row(N, 2, negative=None), "line 2"),
    refused("negation with a list for a text", NEGATION, row(N, 2, negative=["a"]), "line 2", "negative"),
    refused("negation empty", NEGATION, put(N, "\n"), N),
    refused("reranking without positives", RERANKING, row(R, 2, positive=None), "line 2", "positive"),
    refused("reranking with numbers", RERANKING, row(R, 2, negative=[1]), "line 2", "negative"),
    refused("bm25 for sentences", STS.replace("model=model", "model=bm25"), None, "bm25"),
    refused("while training: a file that is not there", "train shards=shards output=out max_steps=2 global_batch_size=8 evaluation.tasks=[sts:eval/none.jsonl]", None, "eval/none.jsonl"),
    refused("while training: a metric that is not there", "train shards=shards output=out max_steps=2 global_batch_size=8 evaluation.tasks=[sts:eval/sts.jsonl] evaluation.metric=sts:eval/sts.jsonl/pearso", None, "pearso"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_evaluation(fault: Fault, world: Path) -> None:
    check(fault, world)
