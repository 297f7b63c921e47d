"""Retrieval metrics against trec_eval's documented example and hand-worked numbers; the run against a plain sort."""

import gzip
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from jemb.core.errors import InputError
from jemb.evaluate import RetrievalTask, load_task, score
from jemb.evaluate.bm25 import Run
from jemb.evaluate.ranking import RETRIEVAL, judge, percent
from tests.helpers.made_tasks import at_angle


def write(folder: Path, corpus: list[dict], queries: list[dict], qrels: dict[str, str]) -> Path:
    for name, rows in (("corpus.jsonl", corpus), ("queries.jsonl.gz", queries)):
        data = "\n".join(map(json.dumps, rows)).encode()
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    for name, text in qrels.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


CORPUS = [{"_id": f"d{i}", "title": "angle", "text": str(10 * i), "url": "none"} for i in range(1, 9)]
QUERIES = [{"_id": "q1", "text": "0"}, {"_id": "q2", "text": "80"}, {"_id": "not judged", "text": "5"}]
# q1 finds d1, d2, d3, …: d2 (relevance 1) and d3 (2). q2 finds d8, d7, …, d1: d1 is the eighth.
QRELS = "query-id\tcorpus-id\tscore\nq1\td2\t1\nq1\td3\t2\nq1\td1\t0\nq2\td1\t1\n"


def test_by_hand(tmp_path: Path) -> None:
    metrics = score(at_angle, f"retrieval:{write(tmp_path, CORPUS, QUERIES, {'qrels/test.tsv': QRELS})}")
    # nDCG with linear gain: q1 has 1 at rank 2 and 2 at rank 3, best 2 then 1; q2 has 1 at rank 8.
    first = (1 / math.log2(3) + 2 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    assert metrics["ndcg_at_10"] == pytest.approx(100 * (first + 1 / math.log2(9)) / 2)
    assert metrics["mrr_at_10"] == pytest.approx(100 * (1 / 2 + 1 / 8) / 2)
    assert metrics["recall_at_10"] == metrics["recall_at_100"] == 100


def test_documented_example_of_pytrec_eval() -> None:
    qrels = {"q1": {"d1": 0, "d2": 1, "d3": 0}, "q2": {"d2": 1, "d3": 1}}
    run = {"q1": {"d3": 1.5, "d1": 1.0, "d2": 0.0}, "q2": {"d1": 1.5, "d3": 0.5, "d2": 0.2}}
    metrics = judge(qrels, run, RETRIEVAL)
    assert metrics["ndcg_at_10"].tolist() == [0.5, pytest.approx(0.6934264036172708)]
    assert metrics["mrr_at_10"].tolist() == [pytest.approx(1 / 3), 0.5]


def mean_metrics(qrels: dict[str, dict[str, int]], run: Run) -> dict[str, float]:
    return {metric: score.value for metric, score in percent(judge(qrels, run, RETRIEVAL)).scores.items()}


def test_cuts_at_10_and_100_and_queries_that_found_nothing() -> None:
    """Relevant passages at rank 11 and 50 of q1; q2 found nothing, q3 is not in the run: all three count."""
    run = {"q1": {f"d{i:03}": 1 - i / 100 for i in range(1, 61)}, "q2": {}}
    qrels = {"q1": {"d011": 1, "d050": 1, "gone": 1}, "q2": {"d001": 1}, "q3": {"d001": 1}}
    metrics = mean_metrics(qrels, run)
    assert metrics == {
        "ndcg_at_10": 0,
        "recall_at_10": 0,
        "recall_at_100": pytest.approx(100 * (2 / 3) / 3),
        "mrr_at_10": 0,
    }
    qrels["q1"]["d010"] = 1
    assert mean_metrics(qrels, run)["mrr_at_10"] == pytest.approx(100 / 10 / 3)


def random_task(num_texts: int) -> RetrievalTask:
    """150 passages that share `num_texts` texts, and 12 queries that are also passages."""
    rng = np.random.default_rng(num_texts)
    corpus = {f"é{i}" if i % 3 else f"{i}": f"t{rng.integers(num_texts)}" for i in range(150)}
    ids = list(corpus)
    queries = {ids[i]: corpus[ids[i]] for i in rng.choice(150, 12, replace=False)}
    qrels = {
        query: {ids[i]: int(rng.integers(1, 3)) for i in rng.choice(150, 9) if ids[i] != query} | {"zz": 1}
        for query in queries
    }
    return RetrievalTask("random", queries, corpus, qrels)


@pytest.mark.parametrize("vectors", ["axes", "random"])
@pytest.mark.parametrize("num_texts", [10_000, 60, 4, 1])
def test_the_cut_run_scores_as_the_whole_one_in_trec_eval(num_texts: int, vectors: str) -> None:
    """trec_eval on all passages at once, where it breaks the ties itself, is the reference for our first 100.

    axes: vectors along few axes, so that cosines of different texts are equal too, and exactly so.
    """
    task = random_task(num_texts)
    rng = np.random.default_rng(0)
    axes = np.concatenate([np.eye(3), -np.eye(3)])[rng.integers(6, size=num_texts)]
    values = axes if vectors == "axes" else rng.normal(size=(num_texts, 3))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    table = {f"t{i}": unit[i] for i in range(num_texts)}

    def encode(texts: Sequence[str]) -> np.ndarray:
        assert len(set(texts)) == len(texts), "a text is encoded once"
        return np.stack([table[text] for text in texts])

    run = task.run(encode)
    whole = {
        query: {d: float(table[text] @ table[other]) for d, other in task.corpus.items() if d != query}
        for query, text in task.queries.items()
    }
    assert all(len(found) == 100 and query not in found for query, found in run.items())
    reference = pytrec_eval.RelevanceEvaluator(task.qrels, {"ndcg_cut.10", "recall.10,100", "recip_rank"})
    wanted = reference.evaluate(whole)
    metrics = judge(task.qrels, run, RETRIEVAL)
    for i, query in enumerate(task.queries):
        assert metrics["ndcg_at_10"][i] == wanted[query]["ndcg_cut_10"]
        assert metrics["recall_at_10"][i] == wanted[query]["recall_10"]
        assert metrics["recall_at_100"][i] == wanted[query]["recall_100"]
        first = wanted[query]["recip_rank"]
        assert metrics["mrr_at_10"][i] == (first if first >= 1 / 10 else 0)
    for query, found in run.items():
        places = sorted(
            ((np.float32(score), passage.encode()) for passage, score in whole[query].items()), reverse=True
        )
        assert [passage.encode() for passage in found] == [passage for _, passage in places[:100]]


def test_own_passage_is_left_out_unless_judged(tmp_path: Path) -> None:
    corpus = [{"_id": str(i), "title": "", "text": str(10 * i)} for i in range(1, 4)]
    queries = [{"_id": "1", "text": "10"}, {"_id": "2", "text": "19"}]
    folder = write(tmp_path, corpus, queries, {"qrels/test.tsv": "1\t2\t1\n2\t2\t1\n"})
    task = load_task(f"retrieval:{folder}")
    assert isinstance(task, RetrievalTask)
    run = task.run(at_angle)
    assert list(run["1"]) == ["2", "3"]
    assert list(run["2"]) == ["2", "1", "3"]


def test_a_passage_that_only_has_the_querys_id_stays(tmp_path: Path) -> None:
    """Where both are numbered from 1 the ids say nothing; a passage that is the query holds its text."""
    corpus = [{"_id": "1", "title": "Axes", "text": "and  10"}, {"_id": "2", "title": "", "text": "20"}]
    queries = [{"_id": "1", "text": "AND 10"}, {"_id": "2", "text": "18"}]
    folder = write(tmp_path, corpus, queries, {"qrels/test.tsv": "1\t2\t1\n2\t1\t1\n"})
    task = load_task(f"retrieval:{folder}")
    assert isinstance(task, RetrievalTask)
    run = task.run(at_angle)
    assert list(run["1"]) == ["2"]
    assert list(run["2"]) == ["2", "1"]


@pytest.mark.parametrize(
    ("qrels", "task", "seen"),
    [
        ({"qrels/test.tsv": "q1\td1\t1", "qrels/dev.tsv": "q2\td1\t1"}, "", "q1"),
        ({"qrels/dev.tsv": "q2\td1\t1\n\n"}, "", "q2"),
        ({"qrels.dev.tsv": "q\tc\ts\r\nq2\td1\t1\r\n"}, "", "q2"),
        ({"qrels.test.tsv": "q1\td1\t1", "qrels.train.tsv": "q2\td1\t1"}, "", "q1"),
        ({"qrels/a.tsv": "q1\td1\t1", "qrels/b.tsv": "q2\td1\t1.0"}, "/qrels/b.tsv", "q2"),
        ({"qrels.a.tsv": "q1\td1\t1", "qrels.b.tsv": "q2\td1\t1"}, "/qrels.b.tsv", "q2"),
    ],
)
def test_where_judgements_lie(tmp_path: Path, qrels: dict[str, str], task: str, seen: str) -> None:
    loaded = load_task(f"retrieval:{write(tmp_path, CORPUS, QUERIES, qrels)}{task}")
    assert isinstance(loaded, RetrievalTask)
    assert loaded.qrels == {seen: {"d1": 1}}
    assert list(loaded.queries) == [seen]
    assert loaded.corpus["d1"] == "angle 10"


@pytest.mark.parametrize(
    ("qrels", "wanted"),
    [
        ("q1\td1\t1\nq1\td2\t12345678", "line 2: relevance is '12345678'; wanted a whole number, 10000 at most"),
        ("q1\t1\td1\nq1\t1\td2", "line 1: relevance is 'd1'; wanted a whole number"),
        ("q1\td1\t1\nq7\td1\t1\n", "query 'q7' is not in .*queries.jsonl.gz"),
        ("q1\tx\t1\nq2\ty\t1\n", "none of the 2 judged passages is in .*corpus.jsonl, the first being 'x'"),
        ("q1\td1\n", "line 1: 2 columns"),
        ("q1 d1 1\n", "line 1: 1 columns"),
        ("q1\td1\t1\nq1\td2\tyes\n", "line 2: relevance is 'yes'"),
        ("q1\td1\t0.5\n", "line 1: relevance is '0.5'"),
        ("q1\td1\tnan\n", "line 1: relevance is 'nan'"),
        ("q1\td1\t1\nq1\td1\t2\n", "line 2: relevance of query 'q1' and passage 'd1' is 2, but 1"),
        ("q1\td1\t0\n", "no judgement with relevance above 0"),
        ("query-id\tcorpus-id\tscore\n", "no judgement with relevance above 0"),
        ("", "no judgement"),
    ],
)
def test_wrong_judgements(tmp_path: Path, qrels: str, wanted: str) -> None:
    folder = write(tmp_path, CORPUS, QUERIES, {"qrels/test.tsv": qrels})
    with pytest.raises(InputError, match=wanted):
        load_task(f"retrieval:{folder}")


def test_judged_passages_outside_the_corpus_count_as_not_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path, CORPUS, QUERIES, {"qrels/test.tsv": "q1\td1\t1\nq1\tx\t1\nq2\ty\t0\n"})
    with caplog.at_level(logging.WARNING):
        metrics = score(at_angle, f"retrieval:{folder}")
    assert "2 of 3 judged passages are not in corpus.jsonl (the first 'x')" in caplog.text
    assert "1 of 2 queries have no relevant passage" in caplog.text
    assert metrics["recall_at_100"] == pytest.approx(100 * 0.5 / 2)


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no corpus\.jsonl"):
        load_task(f"retrieval:{tmp_path}/nowhere")
    with pytest.raises(InputError, match=r"no corpus\.jsonl"):
        load_task(f"retrieval:{tmp_path}")
    folder = write(tmp_path / "a", CORPUS, QUERIES, {})
    with pytest.raises(InputError, match=r"no judgements; wanted qrels/test\.tsv"):
        load_task(f"retrieval:{folder}")
    write(folder, CORPUS, QUERIES, {"qrels/x.tsv": QRELS, "qrels/y.tsv": QRELS})
    with pytest.raises(InputError, match=r"several judgement files \(qrels/x.tsv, qrels/y.tsv\); name one: ret"):
        load_task(f"retrieval:{folder}")
    with pytest.raises(InputError, match=r"corpus\.jsonl: no corpus.jsonl or"):
        load_task(f"retrieval:{folder}/corpus.jsonl")
    with pytest.raises(InputError, match=r"z\.tsv: no such file"):
        load_task(f"retrieval:{folder}/qrels/z.tsv")
    (folder / "queries.jsonl.gz").unlink()
    with pytest.raises(InputError, match=r"no queries\.jsonl"):
        load_task(f"retrieval:{folder}/qrels/x.tsv")


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"_id": "d1", "text": "again"}, r"corpus.jsonl, line 9: field '_id' is 'd1', which an earlier line has"),
        ({"id": "d9", "text": "5"}, r"line 9: no field '_id'; .*did you mean 'id'"),
        ({"_id": "d9", "title": "x"}, r"line 9: no field 'text'"),
        ({"_id": "d9", "title": 3, "text": "x"}, r"line 9: field 'title' is 3"),
        ({"_id": None, "text": "x"}, r"line 9: field '_id' is None"),
    ],
)
def test_wrong_corpus(tmp_path: Path, row: dict, wanted: str) -> None:
    folder = write(tmp_path, [*CORPUS, row], QUERIES, {"qrels/test.tsv": QRELS})
    with pytest.raises(InputError, match=wanted):
        load_task(f"retrieval:{folder}")


def test_numbers_as_ids_and_absent_titles(tmp_path: Path) -> None:
    corpus = [
        {"_id": 7, "text": " plain "},
        {"_id": 8, "title": None, "text": "10"},
        {"_id": "9", "title": "t", "text": ""},
    ]
    folder = write(tmp_path, corpus, [{"_id": 1, "text": "0"}], {"qrels/test.tsv": "1\t8\t1\n"})
    task = load_task(f"retrieval:{folder}")
    assert isinstance(task, RetrievalTask)
    assert task.corpus == {"7": "plain", "8": "10", "9": "t"}
