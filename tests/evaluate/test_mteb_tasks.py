"""mteb's scores through our encoder against mteb's own through sentence-transformers, and against our local tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")

from sentence_transformers import SentenceTransformer  # noqa: E402

from jemb.config import EvaluateConfig, ModelConfig  # noqa: E402
from jemb.core.errors import InputError  # noqa: E402
from jemb.evaluate import RetrievalTask, Task, evaluate, load_task, load_tasks  # noqa: E402
from jemb.evaluate.measure import Bootstrap  # noqa: E402
from jemb.evaluate.models import TextEncoder, load_text_encoder, measure  # noqa: E402
from jemb.evaluate.ranking import RerankingTask  # noqa: E402
from jemb.evaluate.tasks import load as tasks_module  # noqa: E402
from jemb.evaluate.tasks.mteb_tasks import MtebTask, find_tasks  # noqa: E402
from jemb.evaluate.tasks.pairs import StsTask  # noqa: E402
from jemb.evaluate.vectors import Prompts  # noqa: E402
from jemb.model import find_folder, make_tiny  # noqa: E402
from tests.helpers import mteb_objects  # noqa: E402

WORDS = ["the", "cat", "dog", "runs", "sleeps", "house", "river", "small", "big", "under", "over", "water"]
WORDS += ["stone", "red", "old", "quickly"]
RANDOM = np.random.default_rng(7)


def texts(size: int, length: int = 6) -> list[str]:
    return [" ".join(RANDOM.choice(WORDS, length)) for _ in range(size)]


STS = StsTask("sts", texts(60), texts(60, 5), RANDOM.integers(0, 6, 60).astype(float))
TEXTS = dict(zip((f"d{i}" for i in range(150)), texts(150), strict=True))
QUERIES = {f"d{i}": TEXTS[f"d{i}"] for i in range(12)}
"""Queries that are passages too."""
QRELS = {query: {f"d{RANDOM.integers(150)}": int(RANDOM.integers(1, 3)) for _ in range(4)} for query in QUERIES}
QRELS = {query: {p: r for p, r in row.items() if p != query} for query, row in QRELS.items()}
RETRIEVAL = RetrievalTask("retrieval", QUERIES, TEXTS, QRELS)
RERANKING = RerankingTask("rerank", texts(15), [texts(1 + i % 3) for i in range(15)], [texts(8) for _ in range(15)])


def save_tiny(folder: Path, prompts: dict[str, str] | None = None, default: str | None = None) -> Path:
    config = ModelConfig(**{"hidden_size": 32, "num_layers": 1, "num_heads": 2})
    make_tiny([*WORDS, *texts(50)], config, seed=0, max_length=32).save(folder)
    if prompts:
        path = folder / "config_sentence_transformers.json"
        settings = json.loads(path.read_text()) | {"prompts": prompts, "default_prompt_name": default}
        path.write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def encoder(folder: object) -> TextEncoder:
    config = EvaluateConfig(**{"model": str(folder), "tasks": [], "output": "none", "device": "cpu"})
    return load_text_encoder(str(folder), config)


def by_mteb(folder: object, task: Any) -> dict[str, Any]:
    """mteb's own scores of the one subset, by sentence-transformers."""
    model = SentenceTransformer(str(folder), device="cpu")
    options = {"show_progress_bar": False, "batch_size": 32}
    result = mteb.evaluate(
        model, task, cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs=options
    ).task_results[0]
    return dict(result.scores["test"][0])


def ours(make: Callable[..., Any], *args: Any, **options: Any) -> MtebTask:
    task = make(*args, **options)
    task.load_data()
    return MtebTask("mteb:made", task)


CASES = {
    "sts": (mteb_objects.sts, STS, {}, {"spearman": "cosine_spearman", "pearson": "cosine_pearson"}),
    "retrieval": (mteb_objects.retrieval, RETRIEVAL, {"drop_own_ids": True}, {}),
    "reranking": (mteb_objects.reranking, RERANKING, {}, {"map": "map_at_1000"}),
}


@pytest.mark.parametrize("kind", CASES)
def test_equal_to_mteb_with_sentence_transformers(tiny: Path, kind: str) -> None:
    make, local, options, names = CASES[kind]
    wanted = by_mteb(tiny, make(local, **options))
    encode = encoder(tiny)
    task = ours(make, local, **options)
    assert task.score(encode) == {task.main: pytest.approx(100 * wanted["main_score"], abs=1e-4)}
    assert 0 < abs(wanted["main_score"]) < 1
    # mteb rounds what trec_eval says to 5 decimals, but not the reciprocal rank.
    for metric, value in local.score(encode).items():
        rounded = value / 100 if metric.startswith("mrr") or kind == "sts" else round(value / 100, 5)
        assert rounded == pytest.approx(wanted[names.get(metric, metric)], abs=1e-6), metric
    intervals = [Bootstrap().interval(each.measure(encode).scores[each.main]) for each in (task, local)]
    assert intervals[0] == pytest.approx(intervals[1], abs=0.01)


def test_own_passages_stay_where_mteb_keeps_them(tiny: Path) -> None:
    kept = ours(mteb_objects.retrieval, RETRIEVAL).score(encoder(tiny))["ndcg_at_10"]
    assert kept == pytest.approx(100 * by_mteb(tiny, mteb_objects.retrieval(RETRIEVAL))["main_score"], abs=1e-4)
    assert kept < RETRIEVAL.score(encoder(tiny))["ndcg_at_10"]


def test_all_minilm(tmp_path: Path) -> None:
    folder = str(find_folder("all-MiniLM-L6-v2"))
    wanted = by_mteb(folder, mteb_objects.sts(STS))["main_score"]
    assert ours(mteb_objects.sts, STS).score(encoder(folder))["cosine_spearman"] == pytest.approx(
        100 * wanted, abs=1e-4
    )
    assert STS.score(encoder(folder))["spearman"] == pytest.approx(100 * wanted, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "red ", "document": "old stone "}, None),
        ({"query": "red ", "passage": "water "}, "query"),
        ({"STS": "the ", "Retrieval-query": "red ", "Reranking": "old ", "other": "big "}, "other"),
    ],
    ids=["roles", "default", "kinds"],
)
def test_prompts_as_sentence_transformers_puts_them(
    tiny: Path, tmp_path: Path, kind: str, prompts: dict[str, str], default: str | None
) -> None:
    folder = save_tiny(tmp_path / "prompts", prompts, default)
    make, local, options, _ = CASES[kind]
    wanted = 100 * by_mteb(folder, make(local, **options))["main_score"]
    assert ours(make, local, **options).score(encoder(folder)) == {
        make(local).metadata.main_score: pytest.approx(wanted, abs=1e-4)
    }
    if "passage" in prompts:  # a name that mteb does not know, but sentence-transformers' encode_document does
        settings = folder / "config_sentence_transformers.json"
        settings.write_text(settings.read_text().replace('"passage"', '"document"'))
        wanted = 100 * by_mteb(folder, make(local, **options))["main_score"]
        settings.write_text(settings.read_text().replace('"document"', '"passage"'))
    assert local.score(encoder(folder))[local.main] == pytest.approx(wanted, abs=1e-3)
    if kind != "sts" or prompts.get("STS") or default:
        assert abs(local.score(encoder(tiny))[local.main] - wanted) > 1e-3, "the prompts change nothing"


def test_a_prompt_of_the_task_itself_comes_first() -> None:
    prompts = Prompts({"MadeSTS": "a", "STS": "b", "STS-query": "c", "query": "d"}, "query")
    assert [prompts.choose(None, "MadeSTS", "STS"), prompts.choose(None, "STS"), prompts.choose(None, "X")] == list(
        "abd"
    )
    assert [prompts.choose("query", "STS"), prompts.choose("query", "X"), prompts.choose("document", "X")] == [
        "c",
        "d",
        "",
    ]


@pytest.mark.slow
def test_widths_are_those_of_a_truncated_model(tiny: Path) -> None:
    """sentence-transformers' own truncation; cosines do not care for its missing normalisation."""
    encode = encoder(tiny)
    for make, local, options, _ in CASES.values():
        task = ours(make, local, **options)
        found = measure(task, encode, [8, 16]).scores
        assert list(found) == [task.main, f"{task.main}@8", f"{task.main}@16"]
        model = SentenceTransformer(str(tiny), device="cpu", truncate_dim=8)
        wanted = task.score(lambda batch: model.encode(list(batch), show_progress_bar=False))  # noqa: B023
        assert found[f"{task.main}@8"].value == pytest.approx(wanted[task.main], abs=1e-3)
        assert found[task.main].value == task.score(encode)[task.main]


def test_bm25_on_mteb_equals_bm25_on_the_local_task() -> None:
    dropped = ours(mteb_objects.retrieval, RETRIEVAL, drop_own_ids=True).measure_bm25()
    assert dropped.scores["ndcg_at_10"].value == pytest.approx(
        RETRIEVAL.measure_bm25().scores["ndcg_at_10"].value, abs=1e-3
    )
    ranked = ours(mteb_objects.reranking, RERANKING)
    assert ranked.ranks
    assert ranked.measure_bm25().scores["map_at_1000"].value == pytest.approx(
        RERANKING.measure_bm25().scores["map"].value, abs=1e-3
    )
    assert not ours(mteb_objects.sts, STS).ranks


def test_the_command_writes_what_mteb_reads(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str) -> list[Task]:
        tasks = {"mteb:STS17:en-en": (mteb_objects.sts, STS), "mteb:SciFact": (mteb_objects.retrieval, RETRIEVAL)}
        return [MtebTask(name, ours(*tasks[name], name=name.split(":")[1]).task)]

    monkeypatch.setattr(tasks_module, "_mteb", made)
    names = ["mteb:STS17:en-en", "mteb:SciFact"]
    output = tmp_path / "out.json"
    values = {"model": [str(tiny), "bm25"], "tasks": names, "output": str(output), "device": "cpu", "widths": [8]}
    comparison = evaluate(EvaluateConfig(**values))
    scores = comparison.scores
    assert list(scores[str(tiny)]) == names
    assert list(scores["bm25"]) == ["mteb:SciFact"]
    for task, metric in (("STS17:en-en", "cosine_spearman"), ("SciFact", "ndcg_at_10")):
        result = mteb.TaskResult.from_disk(tmp_path / "out" / "tiny" / f"{task.replace(':', '_')}.json")
        assert result.task_name == task.split(":")[0]
        assert 100 * result.get_score() == pytest.approx(scores[str(tiny)][f"mteb:{task}"][metric])
        assert result.scores["test"][0]["languages"] == ["eng-Latn"]
    assert mteb.TaskResult.from_disk(tmp_path / "out" / "bm25" / "SciFact.json").scores["test"][0]["ndcg_at_10"] > 0


def test_names() -> None:
    assert find_tasks("STS17:en-en")["mteb:STS17:en-en"].hf_subsets == ["en-en"]
    assert find_tasks("STS17:deu")["mteb:STS17:deu"].hf_subsets == ["en-de"]
    benchmark = find_tasks("MTEB(eng, v2)")
    assert {task.metadata.name for task in benchmark.values()} == {
        task.metadata.name for task in mteb.get_benchmark("MTEB(eng, v2)").tasks
    }
    assert benchmark["mteb:STS17:en-en"].hf_subsets == ["en-en"]
    assert all(
        find_tasks(name.removeprefix("mteb:"))[name].hf_subsets == task.hf_subsets for name, task in benchmark.items()
    )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("STS17:xx", r"no subset or language 'xx'; its subsets: .*en-en.*its languages: .*eng"),
        ("STSBenchmark:deu", r"no subset or language 'deu'; its subsets: default; its languages: eng"),
        ("STSBenchmrk", r"Did you mean: 'STSBenchmark'"),
        ("MTEB(eng", r"""a name with a comma needs quotes in a list: 'tasks=\["mteb:MTEB\(eng, v2\)"\]'"""),
    ],
)
def test_wrong_names(name: str, wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        load_task(f"mteb:{name}")


def test_what_cannot_be_encoded_or_is_not_one_task() -> None:
    with pytest.raises(InputError, match=r"its data is image.*; jemb encodes text alone"):
        load_task("mteb:CIFAR10")
    with pytest.raises(InputError, match=r"of 41 of its 41 tasks \(mteb:.*Load it once with a network"):
        load_tasks(["mteb:MTEB(eng, v2)"])
