"""`jemb train -m`: a run for each combination, in folders of their own, and a table; `--cfg job`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from jemb.app.cli import main
from jemb.app.sweep import combinations
from jemb.run_folder import RunFolder

SMALL = ["model.hidden_size=32", "model.num_layers=1", "model.vocab_size=400", "max_length=16", "workers=0"]


@pytest.fixture
def options(pair_shards: Path) -> list[str]:
    return ["train", "-m", f"shards={pair_shards}", *SMALL, "global_batch_size=8", "max_steps=2", "trackers=[]"]


@pytest.mark.slow
def test_two_by_two_values(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four runs, the best at the top; evaluated, by what chose their models; the same command again does nothing."""
    sts = tmp_path / "sts.jsonl"
    rows = [{"sentence1": f"a {n}", "sentence2": f"b {n % 3}", "score": n} for n in range(9)]
    sts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    command = [*options, "learning_rate=1e-3,5e-4", "seed=range(1,3)", "output=sweep", f"evaluation.tasks=[sts:{sts}]"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {f"learning_rate={rate},seed={seed}" for rate in ("0.001", "0.0005") for seed in (1, 2)}
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == names
    assert lines[0].split() == ["learning_rate", "seed", "status", "steps", "loss", "metric", "run"]
    assert {line.split()[-1] for line in lines[1:]} == {f"sweep/{name}" for name in names}
    metrics = [float(line.split()[-2]) for line in lines[1:]]
    assert metrics == sorted(metrics, reverse=True)
    for name in names:
        run = RunFolder(tmp_path / "sweep" / name)
        assert run.read_record()["status"] == "finished"
        assert f"learning_rate={run.read_config()['learning_rate']},seed={run.read_config()['seed']}" == name
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_one_that_fails_does_not_stop_the_others(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = tmp_path / "nothing"
    assert main([*options, f"output={tmp_path}/sweep", f"init=null,{init}"]) == 2
    shown = capsys.readouterr()
    assert str(init) in shown.err
    assert [line.split()[1] for line in shown.out.splitlines()] == ["status", "finished", "-"]


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("seed=1,2", ["1", "2"]),
        ("temperature=0.05", []),
        ("learning_rate=choice(0.1,0.2)", ["0.1", "0.2"]),
        ("init=runs/a=b,runs/c d", ["runs/a=b", "runs/c d"]),
        ("init='a,b'", []),
        ("model=tiny,t5_small", ["tiny", "t5_small"]),
        ("objective=pairs,pairs_gte", ["pairs", "pairs_gte"]),
        ("matryoshka_widths=[8],[8,16]", ["[8]", "[8,16]"]),
        ("extra_negatives=[query_query,positive_positive]", []),
        ("weights.a=1,2", ["1", "2"]),
        ("--config-dir=my settings", []),
        ("output=runs/a,runs/b", []),
    ],
)
def test_values(override: str, values: list[str]) -> None:
    name = override.partition("=")[0]
    assert [run.get(name) for run in combinations([override])] == (values or [None])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["seed=1,x"], "option 'seed': got 'x'"),
        (["sed=1,2"], "unknown option 'sed'"),
        (["hydra/launcher=nothing", "seed=1,2"], "nothing"),
    ],
)
def test_mistakes_are_found_before_the_first_run(
    options: list[str], more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, f"output={tmp_path}/sweep", *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_model_that_an_experiment_sets_is_not_swept_in_silence(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    text = "# @package _global_\nmodel: {path: google-t5/t5-small, pooling: mean}\n"
    (tmp_path / "conf/experiment/ours.yaml").write_text(text)
    given = [f"--config-dir={tmp_path}/conf", "experiment=ours", "model=t5_small,t5_base", f"output={tmp_path}/sweep"]
    assert main([*options, *given]) == 2
    assert "model=t5_small and model=t5_base are the same run: what they differ in" in capsys.readouterr().err


def test_only_training_sweeps(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", "-m", "run=a,b", "output=o"]) == 2
    assert "only jemb train" in capsys.readouterr().err
    assert main([*options, "seed=1,2"]) == 2
    assert "option 'output' is missing" in capsys.readouterr().err


def test_the_config_that_a_command_would_run_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "shards=a", "output=b", "objective=triplets", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["shards"], shown["learning_rate"], shown["model"]["hidden_size"]) == ("a", 2e-5, 128)
    assert main(["train", "shards=a", "output=b", "--cfg", "hydra"]) == 2
    assert "wanted --cfg job" in capsys.readouterr().err
