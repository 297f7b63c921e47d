"""BM25 against the formula worked out by hand, and the passages it must not find."""

import math

import pytest

from jemb.evaluate import RetrievalTask

CORPUS = {
    "a": "The cat chased a mouse",  # without stop words: cat chased mouse
    "b": "cat cat",
    "c": "dogs bark",
    "d": "of the and",
    "e": "cat cat",
}


def task(queries: dict[str, str], corpus: dict[str, str] = CORPUS) -> RetrievalTask:
    return RetrievalTask("bm25", queries, corpus, {query: {"a": 1} for query in queries})


def lucene(tf: int, length: int, df: int, num: int = 5, mean_length: float = 9 / 5) -> float:
    idf = math.log(1 + (num - df + 0.5) / (df + 0.5))
    return idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * length / mean_length))


def test_by_hand() -> None:
    run = task({"q": "Which cat chased?"}).bm25_run()["q"]
    assert list(run) == ["a", "e", "b"]  # b and e have equal scores: the higher id comes first, as in trec_eval
    assert run["a"] == pytest.approx(lucene(1, 3, 3) + lucene(1, 3, 1), rel=1e-5)
    assert run["b"] == run["e"] == pytest.approx(lucene(2, 2, 3), rel=1e-5)


def test_nothing_shared_nothing_found() -> None:
    queries = {"stop words": "what is the", "unknown": "zebra", "empty": "", "a": "cat"}
    run = task(queries).bm25_run()
    assert [run[query] for query in queries][:3] == [{}, {}, {}]
    assert list(run["a"]) == ["e", "b", "a"]
    assert (run["a"]["b"], run["a"]["a"]) == pytest.approx((lucene(2, 2, 3), lucene(1, 3, 3)), rel=1e-5)
    nothing = task({"unknown": "zebra"}).measure_bm25().scores
    assert {metric: score.value for metric, score in nothing.items()} == dict.fromkeys(
        ["ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10"], 0.0
    )
    assert task({"q": "cat"}, {"a": "the", "b": ""}).bm25_run() == {"q": {}}


def test_own_passage_is_left_out() -> None:
    own = RetrievalTask("bm25", {"b": "cat cat"}, CORPUS, {"b": {"e": 1}})
    assert list(own.bm25_run()["b"]) == ["e", "a"]
    assert own.measure_bm25().scores["ndcg_at_10"].value == 100
