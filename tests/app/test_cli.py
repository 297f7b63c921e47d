"""The command line: values arrive as they were meant, and each mistake costs one line and exit code 2."""

from __future__ import annotations

import dataclasses
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jemb
from jemb.app import cli
from jemb.app.cli import COMMANDS, main
from jemb.config import TrainConfig, describe, option_names
from jemb.config.foreign import NAMES, translate
from jemb.core.errors import InputError
from tests.helpers.permissions import WITHOUT_POWER, forbid

Given = Callable[..., Any]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Given:
    """given("train", "shards=a", …): the config that the command would run with."""

    def config_of(command: str, *arguments: str) -> Any:
        seen: list[Any] = []
        monkeypatch.setattr(cli, "run", lambda name, config: seen.append(config))
        code = main([command, *arguments])
        assert code == 0, capsys.readouterr().err
        return seen[0]

    return config_of


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused("train", "shard=a", …): the one line that the command ends with, after checking that it is one."""

    def message(*arguments: str) -> str:
        code = main(list(arguments))
        error = capsys.readouterr().err
        assert code == 2, f"exit code {code}: {error}"
        assert "Traceback" not in error
        assert error.startswith(f"jemb {arguments[0]}: ")
        assert len(error.splitlines()) == 1, error
        return error

    return message


MISTAKES = [
    ("shard=x", "unknown option 'shard' (did you mean 'shards'?)"),
    ("--max-steps=3", "did you mean 'max_steps'?"),
    ("frobnicate=1", "unknown option 'frobnicate'; --help lists all options"),
    ("model.hiden_size=32", "unknown option 'model.hiden_size' (did you mean 'model.hidden_size'?)"),
    ("model.tokenizer=x", "unknown option 'model.tokenizer'"),
    ("hydra.run.dir=x", "unknown option 'hydra.run.dir'"),
    ("max_steps", "'max_steps': wanted option=value"),
    ("max_steps=many", "option 'max_steps': got 'many'"),
    ("max_steps=0", "option 'max_steps': got 0; input should be greater than 0"),
    ("max_steps=1,2", "'max_steps"),
    ("global_batch_size=8.5", "option 'global_batch_size': got 8.5"),
    ("global_batch_size=1", "greater than 1"),
    ("learning_rate=fast", "option 'learning_rate': got 'fast'"),
    ("learning_rate=inf", "option 'learning_rate': got inf"),
    ("temperature=0", "option 'temperature': got 0"),
    ("seed=-1", "option 'seed': got -1"),
    ("seed=18446744073709551616", "option 'seed': got 18446744073709551616"),
    ("mask_equal_texts=perhaps", "option 'mask_equal_texts': got 'perhaps'"),
    ("strategy=dpp", "option 'strategy': got 'dpp'; input should be 'auto', 'single', 'ddp', "),
    ("precision=fp17", "option 'precision': got 'fp17'"),
    ("model=tinny", "model=tinny: there is no such model (did you mean 'tiny'?)"),
    ("objective=triplet", "did you mean 'triplets'?"),
    ("experiment=none", "experiment=none: there is no such experiment"),
    ("model.dropout=1", "option 'model.dropout': got 1"),
    ("model.num_heads=3", "model.hidden_size must be a multiple of model.num_heads, got 128 and 3"),
    ("weights=3", "option 'weights': got 3"),
    ("weights.a=-1", "option 'weights.a': got"),
    ("weights.a=heavy", "option 'weights.a': got 'heavy'"),
    ("weights.a=inf", "option 'weights.a': got"),
    ("--config-dir=/no/such/folder", "--config-dir=/no/such/folder: no such folder"),
    ("--config-dir", "--config-dir: wanted --config-dir=DIR"),
    ("max_epochs=0", "option 'max_epochs': got 0"),
    ("schedule=cosin", "option 'schedule': got 'cosin'; input should be 'linear', 'cosine', 'wsd' or 'constant'"),
    ("epochs=3", "unknown option 'epochs': here that is max_epochs"),
    ("num_train_epochs=3", "here that is max_epochs"),
    ("lr=1e-3", "here that is learning_rate"),
    ("batch_size=64", "here that is global_batch_size"),
    ("per-device-train-batch-size=8", "here that is global_batch_size"),
    ("gradient_accumulation_steps=4", "here that is micro_batch_size"),
    ("loss=mnrl", "here that is objective"),
    ("report_to=wandb", "here that is trackers"),
    ("bf16=true", "here that is precision"),
    ("eval_steps=100", "here that is evaluation.every"),
    ("save_steps=100", "here that is checkpoint_every"),
    ("model_name_or_path=x", "here that is init"),
]


@pytest.mark.parametrize(("mistake", "expected"), MISTAKES, ids=[mistake for mistake, _ in MISTAKES])
def test_a_mistake_costs_one_line(refused: Callable[..., str], mistake: str, expected: str) -> None:
    assert expected in refused("train", "shards=/no/shards", "output=/no/output", mistake)


def test_names_of_other_trainers_lead_to_ours(refused: Callable[..., str]) -> None:
    """Each name of the table is told by some command, and each of ours is one of that command."""
    known = {name: set(option_names(command.config)) for name, command in COMMANDS.items()}
    for theirs, ours in NAMES:
        for option in ours:
            assert any(option in names for names in known.values()), f"{option} is no option"
        for given in theirs.split():
            assert any(translate(given, names) for names in known.values()), given
    assert "here that is model" in refused("evaluate", "model_name_or_path=m", "tasks=t", "output=o")
    assert "here that is run" in refused("export", "model_path=m", "output=o")
    assert "here that is input" in refused("prepare", "dataset=m", "output=o")
    assert "here that is output" in refused("tokenize", "shards=s", "model=m", "output_dir=o")
    assert "unknown option 'epochs': here that is max_epochs" in refused("train", "--epochs", "3")
    with pytest.raises(InputError, match="unknown option 'lr': here that is learning_rate"):
        TrainConfig(shards="s", output="o", lr=3)  # type: ignore[call-arg]


def test_required_options(refused: Callable[..., str]) -> None:
    assert "option 'shards' is missing: give shards=…" in refused("train", "output=x")
    assert "option 'output' is missing: give output=…" in refused("train", "shards=x")
    assert "option 'run' is missing" in refused("export", "output=x")


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "no command 'trian' (did you mean 'train'?)" in capsys.readouterr().err
    assert main([]) == 2
    assert "usage: jemb COMMAND" in capsys.readouterr().out
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jemb {jemb.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = COMMANDS[name].config
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    lines = [line.strip() for line in shown.splitlines()]
    letters = "".join(shown.split())  # lines may break at hyphens
    rows = describe(config)
    assert sorted(row[0] for row in rows) == sorted(option_names(config))
    for option, kind, default, meaning in rows:
        (line,) = [line for line in lines if line.startswith(f"{option}={kind}")]
        assert line.endswith("(required)" if default == "required" else ")")
        assert meaning, f"{option} has no meaning written down"
        assert "".join(meaning.split()) in letters
    required = {field.name for field in dataclasses.fields(config) if field.default is field.default_factory}
    assert {row[0] for row in rows if row[2] == "required"} == required


def test_help_wins_over_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "shard=x", "-h"]) == 0
    assert "usage: jemb train" in capsys.readouterr().out


TEXTS = [
    "runs/pairs",
    "/data/day=1/run",
    "my runs/first one",
    "Größe/日本/ключ",
    "runs (copy)",
    "a,b",
    "it's",
    "100%",
    "#1",
    "a:b",
    "~/runs",
    "{braces}",
    "back\\slash",
    "back\\slash=1",
    "C:\\runs\\",
    "2024",
    "1e3",
    "007",
    "true",
    "range(3)",
    "$HOME",
    "a && b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_path_arrives_as_it_was_given(given: Given, text: str) -> None:
    config = given("train", f"shards={text}", f"output={text}")
    assert config.shards == text
    assert config.output == text


@pytest.mark.parametrize(
    "text", ["sts:a.jsonl", "sts:/data/day=1/a b.jsonl", "sts:Größe (1).jsonl", "negation:it's.jsonl"]
)
def test_paths_in_lists_arrive_as_given(given: Given, text: str) -> None:
    assert given("evaluate", "model=bm25", "output=o", f"tasks={text}").tasks == [text]
    assert given("evaluate", "model=bm25", "output=o", f"tasks=[{text}]").tasks == [text]
    assert given("evaluate", "model=bm25", "output=o", f"tasks=[{text}, retrieval:beir]").tasks == [
        text,
        "retrieval:beir",
    ]


def test_words_of_yaml_in_lists(given: Given) -> None:
    config = given("prepare", "input=i", "output=o", "language.allowed=[no,en,on]", "stages=[exact,language]")
    assert config.language.allowed == ["no", "en", "on"]
    assert config.stages == ["exact", "language"]
    assert given("prepare", "input=i", "output=o", "stages=exact").stages == ["exact"]
    assert given("prepare", "input=i", "output=o", "stages=[]").stages == []


@pytest.mark.parametrize(
    "name", ["nli", "all-nli", "msmarco.v2", "a.b.c", "2023-01", "Größe", "with space", "x(1)", "a=b", "x=1=y"]
)
def test_weights_of_any_data_set(given: Given, name: str) -> None:
    assert given("train", "shards=a", "output=b", f"weights.{name}=2.5").weights == {name: 2.5}
    assert given("train", "shards=a", "output=b", f"weights.{name}=2", "weights.other=1").weights == {
        name: 2,
        "other": 1,
    }


def test_weights_of_data_sets_of_which_one_extends_the_others_name(given: Given) -> None:
    for weights in (["weights.a=1", "weights.a.b=2"], ["weights.a.b=2", "weights.a=1"]):
        assert given("train", "shards=a", "output=b", *weights).weights == {"a": 1, "a.b": 2}


def test_values(given: Given) -> None:
    config = given(
        "train",
        "shards=a",
        "output=b",
        "max_steps=1e3",
        "learning_rate=1e-4",
        "micro_batch_size=null",
        "--log_samples",
        "model.hidden_size=64",
        "warmup_steps=0",
        "global_batch_size=16",
        "global_batch_size=32",
    )
    assert (config.max_steps, config.learning_rate, config.micro_batch_size) == (1000, 1e-4, None)
    assert config.log_samples is True
    assert (config.model.hidden_size, config.model.num_layers) == (64, 2)
    assert config.warmup_steps == 0
    assert config.global_batch_size == 32, "the last one counts"


def test_ways_to_write_an_option(given: Given, refused: Callable[..., str]) -> None:
    assert given("inspect", "some/shards").path == "some/shards"
    assert given("inspect", "--verify", "some/shards", "samples=1").verify is True
    assert given("inspect", "path=a=b").path == "a=b"
    assert given("train", "--shards=a", "--output=b", "--max_steps=3").max_steps == 3
    assert "'--max-steps 3': wanted max_steps=3" in refused("train", "shards=a", "output=b", "--max-steps", "3")
    assert "'runs/a': wanted option=value, as in: jemb export run=" in refused("export", "runs/a")
    assert "'two': wanted option=value" in refused("inspect", "one", "two")


def test_prompts_keep_their_spaces(given: Given) -> None:
    assert given("train", "shards=a", "output=b", "prompts.query=query: ").prompts.query == "query: "
    assert given("export", "run=a", "output=b", "prompts.query=query: ").prompts == {"query": "query: "}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["run", "output"])
def test_without_permission(place: str, tmp_path: Path) -> None:
    """The run is another user's who lets nobody read it, or the folder beside which to write is."""
    (tmp_path / "run").mkdir()
    (tmp_path / "others").mkdir()
    for name in ("run.json", "config.yaml"):
        (tmp_path / "run" / name).write_text("{}")
    forbid(*((tmp_path / "run" / "run.json", 0o600) if place == "run" else (tmp_path / "others", 0o755)))
    options = [f"run={tmp_path}/run", f"output={tmp_path}/others/deeper/out"]
    command = [*WITHOUT_POWER, sys.executable, "-m", "jemb.app.cli", "export", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Permission denied" in done.stderr
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_groups_of_values(given: Given) -> None:
    plain = given("train", "shards=a", "output=b")
    assert plain == TrainConfig(shards="a", output="b")
    triplets = given("train", "shards=a", "output=b", "objective=triplets", "model=t5_small")
    assert (triplets.objective, triplets.learning_rate) == ("triplets", 2e-5)
    assert (triplets.model.path, triplets.model.pooling) == ("google-t5/t5-small", "mean")
    changed = given("train", "learning_rate=1e-3", "shards=a", "output=b", "objective=triplets", "model.dropout=0.1")
    assert (changed.learning_rate, changed.model.dropout) == (1e-3, 0.1)


def test_a_recipe_of_the_users(given: Given, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    recipe = tmp_path / "experiment" / "mine.yaml"
    recipe.write_text("# @package _global_\nmax_steps: 7\nmodel:\n  hidden_size: 32\n")
    config = given("train", f"--config-dir={tmp_path}", "experiment=mine", "shards=a", "output=b", "seed=3")
    assert (config.max_steps, config.model.hidden_size, config.seed) == (7, 32, 3)
    recipe.write_text("# @package _global_\nmax_stpes: 7\n")
    assert "only jemb train has experiments" in refused("export", f"--config-dir={tmp_path}", "run=a", "output=b")
    message = refused("train", f"--config-dir={tmp_path}", "experiment=mine", "shards=a", "output=b")
    assert "max_stpes" in message
    recipe.write_text("max_steps: 7\n")
    message = refused("train", f"--config-dir={tmp_path}", "experiment=mine", "shards=a", "output=b")
    assert "wanted the first line `# @package _global_`" in message


def broken_shards(folder: Path, pairs: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Mistakes in the data and what their messages hold: name -> (options, parts)."""
    (folder / "empty").mkdir()
    cut = shutil.copytree(pairs, folder / "cut")
    tar = cut / "answers" / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-700])
    gone = shutil.copytree(pairs, folder / "gone")
    (gone / "answers" / "shard-000000.tar").unlink()
    (folder / "file.txt").write_text("no folder")
    shards = f"shards={pairs}"
    return {
        "no such folder": ([f"shards={folder}/nothing"], [f"{folder}/nothing"]),
        "a file": ([f"shards={folder}/file.txt"], ["file.txt"]),
        "empty folder": ([f"shards={folder}/empty"], [f"{folder}/empty", "no data set"]),
        "truncated tar": ([f"shards={cut}"], ["shard-000001.tar", "bytes", "cut off"]),
        "missing tar": ([f"shards={gone}"], ["shard-000000.tar", "no such file"]),
        "unknown data set": ([shards, "weights.answer=2"], ["weights.answer", "did you mean 'answers'?"]),
        "batch too large": (
            [shards, "small_datasets=refuse", "global_batch_size=30"],
            ["global_batch_size=30", "all-titles.v2 (27)", "<=27"],
        ),
        "no negatives": ([shards, "objective=triplets"], ["objective=triplets", "all-titles.v2", "objective=pairs"]),
        "init missing": ([shards, "init=/no/model"], ["/no/model"]),
        "init no model": ([shards, f"init={folder}/empty"], [f"{folder}/empty"]),
        "model missing": ([shards, "model.path=./no-model"], ["./no-model"]),
        "max_length": ([shards, "init=/no/model", "max_length=1"], ["max_length"]),
        "no cuda": ([shards, "device=cuda"], ["device=cuda", "device=cpu"]),
    }


PROBLEMS = [
    "no such folder",
    "a file",
    "empty folder",
    "truncated tar",
    "missing tar",
    "unknown data set",
    "batch too large",
    "no negatives",
    "init missing",
    "init no model",
    "model missing",
    "max_length",
    "no cuda",
]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_wrong_data_cost_one_line_and_nothing_else(
    refused: Callable[..., str], tmp_path: Path, pair_shards: Path, problem: str
) -> None:
    if problem == "no cuda":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is one")
    options, parts = broken_shards(tmp_path, pair_shards)[problem]
    output = tmp_path / "output"
    message = refused("train", "global_batch_size=8", *options, f"output={output}")
    for part in parts:
        assert part in message
    left = [path for path in output.iterdir() if not path.name.startswith(".")] if output.exists() else []
    assert not left, "the corrected command can use the same folder"


def test_an_output_that_cannot_be_a_folder(refused: Callable[..., str], tmp_path: Path, pair_shards: Path) -> None:
    (tmp_path / "file").write_text("precious")
    assert "file" in refused("train", f"shards={pair_shards}", f"output={tmp_path}/file", "global_batch_size=8")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_name_that_no_file_can_have(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("inspect", str(tmp_path / ("x" * 5000)))
    assert "too long" in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "first"), ("WORLD_SIZE", "two"), ("RANK", "5"), ("MASTER_PORT", "-1")]
)
def test_a_launcher_that_says_no_number(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for variable, good in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(variable, value if variable == name else good)
    assert f"{name}={value}" in refused("train", "shards=shards", "output=out")


def test_debug_shows_where() -> None:
    """A fresh process, since it may end by the error itself; still with exit code 2."""
    command = [sys.executable, "-m", "jemb.app.cli", "train", "--debug", "shard=x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" in done.stderr
    assert "did you mean 'shards'?" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_module_too(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"jemb.app.{name}", run_name="__main__")
    assert end.value.code == 0
    assert f"usage: jemb {name} " in capsys.readouterr().out


def test_memory_of_a_gpu_may_grow_unless_the_user_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
    for given in (False, True):
        monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
        monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
        if given:
            monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
        assert main(["inspect"]) == 2
        assert os.environ.get("PYTORCH_ALLOC_CONF") == (None if given else "expandable_segments:True")
