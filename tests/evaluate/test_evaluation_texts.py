"""Texts of evaluation tasks: files, and mteb's real task classes on data made here."""

from __future__ import annotations

import pytest

from jemb.core.errors import InputError
from jemb.evaluate.tasks.load import dataset_texts, evaluation_texts


def test_files_and_folders(tmp_path):
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    (tmp_path / "beir" / "queries.jsonl").write_text('{"_id": "q1", "text": "a question"}\n')
    (tmp_path / "beir" / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "x", "metadata": {"n": 1}}\n')
    (tmp_path / "beir" / "qrels" / "test.tsv").write_text("q1\t0\td1\t0\n")  # no header, and equal columns
    (tmp_path / "beir" / "README.md").write_text("no texts")
    texts = list(evaluation_texts(str(tmp_path / "beir")))
    assert texts == ["d1", "T", "x", "q1", "a question"]
    (tmp_path / "sts.tsv").write_text("sentence1\tsentence2\tscore\na cat\ta dog\t2.5\n")
    assert list(evaluation_texts(str(tmp_path / "sts.tsv"))) == ["a cat", "a dog", "2.5"]
    (tmp_path / "reranking.csv").write_text('query,positive,negative\na,"[""b"", ""c""]",[1] d\n')
    assert list(evaluation_texts(str(tmp_path / "reranking.csv"))) == ["a", "b", "c", "[1] d"]


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        evaluation_texts(str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nnot json\n')
    with pytest.raises(InputError, match=r"a\.jsonl: line 2: not JSON"):
        list(evaluation_texts(str(tmp_path / "a.jsonl")))
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match="unknown kind of file"):
        list(evaluation_texts(str(tmp_path / "a.txt")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no evaluation texts in it"):
        evaluation_texts(str(tmp_path / "empty"))


def test_nested_data_by_hand():
    pairs = {"en": {"test": [{"sentence1": "a", "sentence2": "b", "score": 1.0}], "train": [{"sentence1": "no"}]}}
    assert list(dataset_texts(pairs, {"test"})) == ["a", "b"]
    retrieval = {
        "default": {"test": {"corpus": [{"id": "1", "title": "t", "text": "x"}], "queries": {"q": ["y", "z"]}}}
    }
    assert list(dataset_texts(retrieval, {"test"})) == ["1", "t", "x", "y", "z"]


def test_rows_of_a_real_data_set():
    datasets = pytest.importorskip("datasets")
    data = {"test": datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})}
    assert list(dataset_texts(data, {"test"})) == ["a", "b"]


@pytest.mark.slow
def test_unknown_tasks_and_missing_data_are_the_users_to_mend(monkeypatch):
    pytest.importorskip("mteb")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="SciFakt"):
        evaluation_texts("mteb:SciFakt")
    with pytest.raises(InputError, match="mteb:SciFact: the data cannot be loaded"):
        evaluation_texts("mteb:SciFact")
