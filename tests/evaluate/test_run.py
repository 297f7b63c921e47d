"""The command: all input is checked first, results are whole, a run keeps its scores."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jemb.app.cli import run
from jemb.config import EvaluateConfig, ModelConfig
from jemb.core.errors import Failure, InputError
from jemb.evaluate import Comparison, Measured, Results, Score, Task, evaluate, load_task, score, table
from jemb.evaluate import run as run_module
from jemb.evaluate.models import load_text_encoder
from jemb.evaluate.vectors import Encode
from jemb.model import encode, load_encoder, make_tiny
from jemb.run_folder import RunFolder
from tests.helpers.made_tasks import sentence, write_tasks


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """sts.jsonl, negation.jsonl and a BEIR folder `beir`, of random sentences."""
    folder = tmp_path / "data"
    write_tasks(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = ModelConfig(**{"hidden_size": 16, "num_layers": 1, "num_heads": 2})
    make_tiny([sentence(i) for i in range(50)], config, seed=0, max_length=32).save(tmp_path / "tiny")
    return tmp_path / "tiny"


def configure(model: object, tasks: list[str], output: Path, **more: object) -> EvaluateConfig:
    return EvaluateConfig(**{"model": str(model), "tasks": tasks, "output": str(output), **more})


def results_of(model: object, tasks: list[str], output: Path, **more: object) -> Results:
    return evaluate(configure(model, tasks, output, **more)).scores[str(model)]


def test_the_journey(data: Path, model: Path, tmp_path: Path) -> None:
    tasks = [f"sts:{data}/sts.jsonl", f"retrieval:{data}/beir", f"negation:{data}/negation.jsonl"]
    output = tmp_path / "new" / "folder" / "scores.json"
    comparison = evaluate(configure(model, [*tasks, tasks[0]], output, device="cpu", batch_size=7))
    results = comparison.scores[str(model)]
    assert json.loads(output.read_text()) == results
    assert list(results) == tasks
    assert [list(metrics) for metrics in results.values()] == [
        ["spearman", "pearson"],
        ["ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10"],
        ["easy_negation", "hard_negation"],
    ]
    assert results[tasks[1]]["mrr_at_10"] == 100  # queries are passages: each finds its own text first
    assert table(comparison).splitlines()[1].split()[0] == "sts:sts"
    assert sorted(path.name for path in output.parent.iterdir()) == ["report.html", "scores", "scores.json"]
    encoder = load_encoder(str(model))
    again = score(lambda texts: encode(encoder, texts, batch_size=64), load_task(tasks[0]))
    assert again == pytest.approx(results[tasks[0]], abs=1e-3)


def test_scores_stay_with_their_run(data: Path, model: Path, tmp_path: Path) -> None:
    run, sts, negation = tmp_path / "run", f"sts:{data}/sts.jsonl", f"negation:{data}/negation.jsonl"
    run.mkdir()
    model.rename(run / "model")
    (run / "run.json").write_text("{}")
    (run / "config.yaml").write_text("")
    first = results_of(run, [sts], tmp_path / "a.json")
    second = results_of(run, [negation], tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == second
    assert RunFolder(run).read_scores() == first | second
    with pytest.raises(InputError, match="is where the run keeps all its scores by itself"):
        evaluate(configure(run, [sts], run / "scores.json"))
    # Its training goes on while it is scored.
    make = partial(load_text_encoder, config=configure(run, [sts], tmp_path / "c.json"))
    config = ModelConfig(**{"hidden_size": 16, "num_layers": 1, "num_heads": 2})

    def make_and_go_on(name: str) -> Encode:
        encode = make(name)
        make_tiny([sentence(i) for i in range(50)], config, seed=1, max_length=32).save(run / "model")
        return encode

    assert evaluate(configure(run, [sts], tmp_path / "c.json"), make_and_go_on).scores[str(run)] == first
    assert RunFolder(run).read_scores() == {}, "the scores of the older model are no scores of this one"


def test_bm25(data: Path, tmp_path: Path) -> None:
    task = f"retrieval:{data}/beir"
    assert results_of("bm25", [task], tmp_path / "out.json")[task]["ndcg_at_10"] > 90
    with pytest.raises(InputError, match=r"bm25 ranks texts only, so it cannot do 'sts:.*leave that task out"):
        evaluate(configure("bm25", [task, f"sts:{data}/sts.jsonl"], tmp_path / "other.json"))
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("stss:{data}/sts.jsonl", "unknown task 'stss:.*wanted sts:FILE.*did you mean 'sts'"),
        ("{data}/sts.jsonl", "unknown task .*wanted sts:FILE"),
        ("sts:", "unknown task 'sts:'"),
        ("sts:{data}/absent.jsonl", "absent.jsonl: no such file"),
        ("sts:{data}/negation.jsonl", "line 1: no field 'sentence1'; the fields there: anchor"),
        ("retrieval:{data}", "no corpus.jsonl"),
    ],
)
def test_every_task_is_read_before_anything_is_encoded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, wanted: str
) -> None:
    def never(names: object, tasks: object) -> None:
        raise AssertionError("the model was looked for before the tasks were read")

    monkeypatch.setattr(run_module, "check_models", never)
    output = tmp_path / "made" / "out.json"
    with pytest.raises(InputError, match=wanted):
        evaluate(configure("any", [f"sts:{data}/sts.jsonl", task.format(data=data)], output))
    assert not output.parent.exists()


def test_finished_tasks_survive_a_failure(
    data: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True

    def breaks_on_small_tasks(name: str) -> Encode:
        def encode(texts: Sequence[str]) -> np.ndarray:
            vectors = np.random.default_rng(0).normal(size=(len(texts), 4))
            return vectors * np.nan if broken and len(texts) < 40 else vectors

        return encode

    retrieval, sts = f"retrieval:{data}/beir", f"sts:{data}/sts.jsonl"
    config = configure(model, [retrieval, sts], tmp_path / "out.json")
    with pytest.raises(Failure, match="NaN"):
        evaluate(config, breaks_on_small_tasks)
    assert not (tmp_path / "out.json").exists()
    kept = json.loads((tmp_path / "out.partial.json").read_text())
    assert "out.partial.json" in caplog.text
    broken = False
    assert evaluate(config, breaks_on_small_tasks).scores[str(model)][retrieval] == kept[retrieval]
    assert list(kept) == [retrieval]
    assert not (tmp_path / "out.partial.json").exists()


def test_outputs_that_cannot_be(data: Path, tmp_path: Path) -> None:
    task = f"retrieval:{data}/beir"
    with pytest.raises(InputError, match="is a folder; wanted the name of a file"):
        evaluate(configure("bm25", [task], tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="its folder cannot be made"):
        evaluate(configure("bm25", [task], tmp_path / "file" / "out.json"))
    with pytest.raises(InputError, match="tasks is empty"):
        evaluate(configure("bm25", [], tmp_path / "out.json"))


@pytest.mark.parametrize("option", ["output", "model"])
def test_several_processes_take_no_url(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    given = {"model": ["runs/pairs"], "tasks": ["sts:dev.jsonl"], "output": "scores.json"}
    given[option] = ["s3://b/run"] if option == "model" else "s3://b/scores.json"
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{option}=s3://b/.*: several processes share a folder"):
        run("evaluate", EvaluateConfig(**given))  # type: ignore[arg-type]


def test_results_are_finite(data: Path) -> None:
    class Odd(Task):
        name = main = "odd"

        def measure(self, encode: object) -> Measured:
            return Measured({"metric": Score(float("nan"))})

    with pytest.raises(Failure, match="odd: metric is nan"):
        score(lambda texts: np.ones((len(texts), 1)), Odd())


def test_table() -> None:
    comparison = Comparison(["m"])
    comparison.add("m", "sts:a.jsonl", "spearman", Measured({"spearman": Score(86.716), "pearson": Score(-1.0)}), 1.0)
    comparison.add("m", "x", "ndcg_at_10", Measured({"ndcg_at_10": Score(100.0)}), 1.0)
    assert table(comparison).splitlines() == [
        "task   metric      percent",
        "sts:a  spearman    86.72",
        "       pearson     -1.00",
        "x      ndcg_at_10  100.00",
    ]


def test_a_file_that_holds_no_scores_is_not_overwritten(data: Path, model: Path, tmp_path: Path) -> None:
    victim = tmp_path / "sts.jsonl"
    victim.write_bytes((data / "sts.jsonl").read_bytes())
    with pytest.raises(InputError, match="holds no scores"):
        evaluate(configure(model, [f"sts:{victim}"], victim))
    assert victim.read_bytes() == (data / "sts.jsonl").read_bytes()


def test_a_table_fits_a_terminal() -> None:
    """Paths are long, and so may names be; the column of the tasks gives way."""
    comparison = Comparison(["/models/" + "m" * 90])
    long = "".join(map(str, range(60)))
    for task in (
        "retrieval:/a/very/long/path/to/some/folder/of/evaluation/data/beir-nfcorpus",
        f"sts:/data/{long}.jsonl",
    ):
        comparison.add(comparison.models[0], task, "ndcg_at_10", Measured({"ndcg_at_10": Score(86.716)}), 1.0)
    lines = table(comparison).splitlines()
    assert lines[1].startswith("retrieval:beir-nfcorpus  ")
    assert lines[2].startswith("sts:…")
    assert f"{long[-20:]}  ndcg_at_10" in lines[2]
    assert max(map(len, lines)) <= 80
