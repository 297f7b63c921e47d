"""Several models side by side: what the command writes and shows, checked on numbers worked out from the vectors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jemb.app.cli import command_help
from jemb.app.compose import compose_config
from jemb.config import EvaluateConfig
from jemb.core.errors import InputError
from jemb.evaluate import evaluate, table
from jemb.evaluate import run as run_module
from jemb.evaluate.comparison import short_names
from jemb.evaluate.vectors import Encode
from tests.helpers.permissions import WITHOUT_POWER, forbid


def at_angle(texts: Sequence[str]) -> np.ndarray:
    """A text is an angle in degrees, told by the first two numbers; the third one disturbs a little."""
    degrees = np.radians(np.array([float(text) for text in texts]))
    return np.stack([np.cos(degrees), np.sin(degrees), 0.3 * np.cos(5 * degrees)], axis=1)


def noisy(texts: Sequence[str]) -> np.ndarray:
    return at_angle([str(float(text) + 40 * np.sin(7 * float(text))) for text in texts])


def make(name: str) -> Encode:
    return {"runs/good": at_angle, "runs/bad": noisy}[name]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """40 pairs whose scores are their angles', and 12 queries with three candidates each."""
    random = np.random.default_rng(0)
    pairs = [{"sentence1": "0", "sentence2": str(a), "score": 90 - a + random.integers(9)} for a in range(0, 80, 2)]
    rows = [{"query": str(a), "positive": [str(a + 5)], "negative": [str(a + 9), str(a - 20)]} for a in range(12)]
    for name, lines in (("sts", pairs), ("rerank", rows)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(line, default=int) for line in lines))
    monkeypatch.setattr(run_module, "check_models", lambda names, tasks: None)
    return [f"sts:{tmp_path}/sts.jsonl", f"reranking:{tmp_path}/rerank.jsonl"]


def configure(models: list[str], tasks: list[str], output: Path, **more: object) -> EvaluateConfig:
    return EvaluateConfig(**{"model": models, "tasks": tasks, "output": str(output), **more})


def test_output_of_several_models(tasks: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    comparison = evaluate(configure(["runs/good", "runs/bad", "bm25"], tasks, output, bootstrap=500, seed=3), make)
    written = json.loads(output.read_text())
    assert written["scores"] == comparison.scores
    assert written["bootstrap"] == {"samples": 500, "level": 0.95, "seed": 3, "baseline": "runs/good"}
    assert list(written["scores"]["bm25"]) == [tasks[1]], "what BM25 cannot do is not in its scores"
    good, bad = (written["scores"][model][tasks[0]]["spearman"] for model in ("runs/good", "runs/bad"))
    difference, low, high = written["differences"]["runs/bad"][tasks[0]]["spearman"]
    assert difference == pytest.approx(bad - good)
    assert low < difference < high < 0
    assert "runs/good" not in written["differences"]
    low, high = written["intervals"]["runs/good"][tasks[0]]["spearman"]
    assert low < good < high
    assert written == json.loads(
        json.dumps(
            evaluate(configure(["runs/good", "runs/bad", "bm25"], tasks, output, bootstrap=500, seed=3), make).output()
        )
    ), "the seed decides the intervals"


def test_the_interval_is_that_of_a_plain_loop(tasks: list[str], tmp_path: Path) -> None:
    comparison = evaluate(configure(["runs/bad"], tasks[:1], tmp_path / "out.json", bootstrap=2000), make)
    cell = comparison.cell("runs/bad", tasks[0], "spearman")
    rows = [json.loads(line) for line in (tmp_path / "sts.jsonl").read_text().splitlines()]
    one, two = (noisy([row[side] for row in rows]) for side in ("sentence1", "sentence2"))
    cosines, scores = (one * two).sum(1), np.array([row["score"] for row in rows])
    random = np.random.default_rng(99)
    draws = [random.integers(40, size=40) for _ in range(2000)]
    again = [100 * stats.spearmanr(cosines[drawn], scores[drawn]).statistic for drawn in draws]
    assert cell is not None
    assert cell.interval == pytest.approx(np.percentile(again, [2.5, 97.5]), abs=4)
    wide = evaluate(configure(["runs/bad"], tasks[:1], tmp_path / "out.json", level=0.5), make)
    narrow = wide.cell("runs/bad", tasks[0], "spearman")
    assert narrow is not None
    assert narrow.interval == pytest.approx(np.percentile(again, [25, 75]), abs=4)


def test_table_of_several_models(tasks: list[str], tmp_path: Path) -> None:
    lines = table(evaluate(configure(["runs/good", "bm25"], tasks, tmp_path / "out.json"), make)).splitlines()
    assert re.fullmatch(r"task +metric +good +bm25", lines[0])
    assert re.fullmatch(r"sts:sts +spearman +\d\d\.\d\d \[\d+\.\d, \d+\.\d\] +–", lines[1])
    assert lines[2].split() == ["difference"]
    assert re.fullmatch(r" +difference +[-+]\d+\.\d\d \[[-+]\d+\.\d, [-+]\d+\.\d\]", lines[6])
    assert "95 % of 1,000 bootstrap samples" in " ".join(lines)
    assert max(map(len, lines)) <= 80
    assert "–" not in table(evaluate(configure(["runs/good"], tasks, tmp_path / "a.json", bootstrap=0), make))
    assert "[" not in table(evaluate(configure(["runs/good"], tasks, tmp_path / "a.json", bootstrap=0), make))


def test_widths(tasks: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    evaluate(configure(["runs/good"], tasks[:1], output, widths=[3, 2]), make)
    metrics = json.loads(output.read_text())[tasks[0]]
    assert list(metrics) == ["spearman", "pearson", "spearman@3", "pearson@3", "spearman@2", "pearson@2"]
    assert metrics["spearman@3"] == pytest.approx(metrics["spearman"])
    scores = [json.loads(line)["score"] for line in (tmp_path / "sts.jsonl").read_text().splitlines()]
    angles = np.radians(np.arange(0, 80, 2))
    assert metrics["pearson@2"] == pytest.approx(100 * np.corrcoef(np.cos(angles), scores)[0, 1], abs=1e-4)
    with pytest.raises(InputError, match=r"widths=\[4\]: the vectors of runs/good have 3 numbers"):
        evaluate(configure(["runs/good"], tasks, tmp_path / "b.json", widths=[4]), make)


def test_report(tasks: list[str], tmp_path: Path) -> None:
    models = ["runs/good", "runs/bad", "bm25"]
    evaluate(configure(models, tasks, tmp_path / "out.json", widths=[2]), make)
    page = (tmp_path / "report.html").read_text()
    for text in (
        "<title>jemb evaluate</title>",
        "Differences to good",
        "Shorter and quantised vectors",
        "sts:sts",
        "reranking:rerank",
        "bm25",
    ):
        assert text in page, text
    assert page.count("<img") == 2, "scores and differences"
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    other = tmp_path / "prepared"
    other.mkdir()
    (other / "report.html").write_text("<html><head><title>jemb prepare</title></head></html>")
    evaluate(configure(["runs/good"], tasks, other / "scores.json"), make)
    assert "jemb prepare" in (other / "report.html").read_text(), "another command's report stays"
    assert "jemb evaluate" in (other / "scores.report.html").read_text()


def test_files_for_mteb(tasks: list[str], tmp_path: Path) -> None:
    results = pytest.importorskip("mteb").TaskResult
    comparison = evaluate(configure(["runs/good", "bm25"], tasks, tmp_path / "out.json"), make)
    found = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.json"))
    assert found == ["out/bm25/reranking_rerank.json", "out/good/reranking_rerank.json", "out/good/sts_sts.json"]
    result = results.from_disk(tmp_path / "out" / "good" / "sts_sts.json")
    assert result.task_name == "sts:sts"
    assert 100 * result.get_score() == pytest.approx(comparison.scores["runs/good"][tasks[0]]["spearman"])
    assert result.scores["test"][0]["pearson"] == pytest.approx(
        comparison.scores["runs/good"][tasks[0]]["pearson"] / 100
    )


def test_short_names() -> None:
    names = [
        "sts:/a/dev.jsonl.gz",
        "sts:/b/dev.jsonl.gz",
        "negation:/a/dev.tsv",
        "mteb:STS17:en-en",
        "runs/a/model",
        "b/c",
    ]
    assert list(short_names(names).values()) == [
        "sts:/a/dev.jsonl.gz",
        "sts:/b/dev.jsonl.gz",
        "negation:dev",
        "mteb:STS17:en-en",
        "a/model",
        "c",
    ]
    same = ["sts:dev.tsv", "sts:dev.jsonl", "sts:dev.tsv/"]
    assert len(set(short_names(same).values())) == 3
    assert short_names(["a", "x/a", "/a"]) == {"a": "a", "x/a": "x/a", "/a": "/a"}


def test_names_with_commas_are_quoted_in_a_list() -> None:
    given = 'tasks=["mteb:MTEB(eng, v2)",sts:a.jsonl]'
    config = compose_config("evaluate", EvaluateConfig, ["model=[runs/a,bm25]", given, "output=o", "widths=[64,128]"])
    assert config.tasks == ["mteb:MTEB(eng, v2)", "sts:a.jsonl"]
    assert config.model == ["runs/a", "bm25"]
    assert config.widths == [64, 128]
    alone = compose_config("evaluate", EvaluateConfig, ["model=runs/a", "tasks=mteb:MTEB(eng, v2)", "output=o"])
    assert alone.tasks == ["mteb:MTEB(eng, v2)"]
    assert alone.model == ["runs/a"]


def test_help_names_the_fields_of_the_files() -> None:
    text = " ".join(command_help("evaluate").split())
    for words in (
        "sentence1, sentence2, score",
        "_id, title, text",
        "anchor, entailment, negative",
        "mteb:MTEB(eng, v2)",
    ):
        assert words in text


def test_outputs_that_would_cover_something_else(tasks: list[str], tmp_path: Path) -> None:
    evaluate(configure(["bm25"], tasks[1:], tmp_path / "scores"))
    assert (tmp_path / "scores").is_file()
    assert (tmp_path / "scores_mteb" / "bm25" / "reranking_rerank.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("secret", ["task", "folder"])
def test_permissions_are_the_users_to_mend(secret: str, tmp_path: Path) -> None:
    task, folder = tmp_path / "rerank.jsonl", tmp_path / "out"
    task.write_text('{"query": "cat", "positive": ["a cat"], "negative": ["a dog"]}')
    folder.mkdir()
    forbid(task if secret == "task" else folder, 0o600 if secret == "task" else 0o755)
    command = [*WITHOUT_POWER, sys.executable, "-m", "jemb.app.cli", "evaluate", "model=bm25"]
    command += [f"tasks=reranking:{task}", f"output={folder}/scores.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert re.search(rf"jemb evaluate: .*{task if secret == 'task' else folder}", done.stderr), done.stderr
    assert "permission" in done.stderr.lower()
    assert "Traceback" not in done.stderr
