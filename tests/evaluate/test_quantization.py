"""int8 and binary columns against sentence-transformers' own codes, compared by plain loops."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import pytrec_eval
from scipy import stats
from sentence_transformers import quantize_embeddings

from jemb.config import EvaluateConfig
from jemb.core.errors import Failure
from jemb.evaluate import evaluate, table
from jemb.evaluate import run as run_module
from jemb.evaluate.models import measure as measure_with_variants
from jemb.evaluate.tasks.pairs import StsTask
from jemb.evaluate.vectors import Encode
from tests.helpers.made_tasks import write_tasks

DIM = 20  # no multiple of the 8 bits of a byte
RANKING = ["ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10"]
VARIANTS = ["", "@int8", "@binary", "@6", "@6@int8", "@6@binary"]


def encode(texts: Sequence[str]) -> np.ndarray:
    """Vectors of the words, with a number of its own for each text. Long texts lie beyond the range of short ones."""
    rows = []
    for text in texts:
        words = [np.random.default_rng(crc32(word.encode())).normal(size=DIM) for word in text.split()]
        rows.append(np.sum(words, 0) + 0.5 * np.random.default_rng(crc32(text.encode())).normal(size=DIM))
    return np.array(rows, np.float32)


def unit(texts: Sequence[str], width: int | None = None) -> np.ndarray:
    vectors = encode(texts)[:, :width]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float), b.astype(float)
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def agreeing_bits(a: np.ndarray, b: np.ndarray) -> float:
    return -float(sum(bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True)))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks, and what an evaluation wrote."""
    folder = tmp_path_factory.mktemp("quantised")
    write_tasks(folder, first_query=500)
    config = EvaluateConfig(
        model=["runs/words"],
        tasks=[f"sts:{folder}/sts.jsonl", f"retrieval:{folder}/beir"],
        output=str(folder / "scores.json"),
        quantization=["int8", "binary"],
        widths=[6],
        bootstrap=20,
    )

    def make(name: str) -> Encode:
        return encode

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "check_models", lambda names, tasks: None)
        assert "ndcg_at_10@binary" in table(evaluate(config, make))
    return folder


@pytest.fixture
def scores(folder: Path) -> dict[str, dict[str, float]]:
    found = json.loads((folder / "scores.json").read_text())
    return {name.partition(":")[0]: values for name, values in found.items()}


def test_sts_is_that_of_the_librarys_codes(scores: dict[str, dict[str, float]], folder: Path) -> None:
    rows = read(folder / "sts.jsonl")
    ones, twos, wanted = ([row[name] for row in rows] for name in ("sentence1", "sentence2", "score"))
    assert list(scores["sts"]) == [f"{metric}{v}" for v in VARIANTS for metric in ("spearman", "pearson")]
    for width, kind in product([None, 6], ["int8", "binary"]):
        everything = unit([*ones, *twos], width)
        codes = quantize_embeddings(everything, "int8" if kind == "int8" else "ubinary")
        compare = cosine if kind == "int8" else agreeing_bits
        found = [compare(a, b) for a, b in zip(codes[: len(ones)], codes[len(ones) :], strict=True)]
        variant = f"@{width}@{kind}" if width else f"@{kind}"
        assert scores["sts"][f"spearman{variant}"] == pytest.approx(100 * stats.spearmanr(found, wanted).statistic)
        assert scores["sts"][f"pearson{variant}"] == pytest.approx(100 * stats.pearsonr(found, wanted).statistic)
    assert len({round(scores["sts"][f"spearman{v}"], 6) for v in VARIANTS}) == len(VARIANTS)


def test_what_tells_no_texts_apart_is_named() -> None:
    """Of numbers all above 0 the binary codes are equal."""
    task = StsTask("few", ["a", "b"], ["c", "d"], np.array([1.0, 2.0]))
    with pytest.raises(Failure, match=r"few: .*tells no texts apart, as binary$"):
        measure_with_variants(task, lambda texts: np.abs(encode(texts)) + 0.1, [], ["binary"])


def test_retrieval_is_that_of_the_librarys_codes(scores: dict[str, dict[str, float]], folder: Path) -> None:
    corpus = {row["_id"]: row["text"] for row in read(folder / "beir/corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in read(folder / "beir/queries.jsonl")}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(10)}
    judge = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"})
    assert list(scores["retrieval"]) == [f"{metric}{variant}" for variant in VARIANTS for metric in RANKING]

    def measure(kind: str, compare: object, calibration: np.ndarray) -> dict[str, float]:
        one, two = (
            quantize_embeddings(unit(list(texts.values())), kind, calibration_embeddings=calibration)  # type: ignore
            for texts in (queries, corpus)
        )
        run = {
            query: {passage: compare(a, b) for passage, b in zip(corpus, two, strict=True)}  # type: ignore[operator]
            for query, a in zip(queries, one, strict=True)
        }
        found = judge.evaluate(run).values()
        return {name: 100 * float(np.mean([row[name] for row in found])) for name in ("ndcg_cut_10", "recall_100")}

    passages = unit(list(corpus.values()))
    for kind, known, compare in (("int8", "int8", cosine), ("binary", "ubinary", agreeing_bits)):
        found = measure(known, compare, passages)
        assert scores["retrieval"][f"ndcg_at_10@{kind}"] == pytest.approx(found["ndcg_cut_10"])
        assert scores["retrieval"][f"recall_at_100@{kind}"] == pytest.approx(found["recall_100"])
    assert measure("int8", cosine, unit(list(queries.values()))) != measure("int8", cosine, passages)


def test_the_report_has_the_columns(scores: dict[str, dict[str, float]], folder: Path) -> None:
    page = (folder / "report.html").read_text()
    section = next(part for part in page.split("<h2")[1:] if "quantised vectors" in part)
    for value in ("int8", "binary", *(f"{scores['sts'][f'spearman@{kind}']:.2f}" for kind in ("int8", "binary"))):
        assert value in section
