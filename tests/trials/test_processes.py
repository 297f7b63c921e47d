"""SIGKILL, SIGTERM, SIGINT and SIGHUP of every kind of process at chosen moments of each command: no process is left, and
the same command afterwards gives what an undisturbed one gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

import pytest

from tests.trials.fault import Prelude, at, digests, me, my_children, run
from tests.trials.world import EVALUATE, EXPORT, PREPARE, TOKENIZE, TRAIN

COMMANDS = {
    "prepare": PREPARE.replace("[exact]", "[exact,near_duplicates,language]"),
    "train": TRAIN,
    "tokenize": TOKENIZE,
    "evaluate": EVALUATE.format("sts:eval/sts.jsonl,retrieval:eval/beir"),
    "export": EXPORT,
}
KILLS = [
    ("prepare", r"manifest\.json$"), ("prepare", r"\.arrow$|piece"), ("prepare", r"shard-000000\.tar$"), ("prepare", r"shard-000000\.idx\.npy$"),
    ("prepare", r"report\.html$"), ("prepare", r"\.json$"),
    ("train", r"config\.yaml$"), ("train", r"run\.json$"), ("train", r"start$"), ("train", r"step-00000002$"), ("train", r"step-00000008$"),
    ("train", r"model$"),
    ("tokenize", r"ids\.npy$"), ("tokenize", r"hashes\.npy$"), ("tokenize", r"tokens\.json$"),
    ("evaluate", r"scores\.json$"), ("evaluate", r"report\.html$"), ("export", r"out$"),
]  # fmt: skip
"""(command, the file or folder before and after whose appearance it is killed). A pattern that no file of the command
has any more is a test that passes without a kill: so the first run must end by the signal or the pattern goes."""


@pytest.fixture(scope="session")
def undisturbed(whole_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What a command leaves in `out`, by file."""
    from tests.trials.fault import copy_world

    found: dict[str, dict[str, str]] = {}

    def give(name: str) -> dict[str, str]:
        if name not in found:
            world = copy_world(whole_world, tmp_path_factory.mktemp(f"plain-{name}"))
            assert (outcome := run(world, COMMANDS[name].split())).code == 0, outcome.output
            found[name] = result(world)
        return found[name]

    return give


TIMES = ("run.json", "metrics.jsonl", "config.yaml", "README.md", "training.json", "report.html")
"""Files that hold times, or where something lies."""
LITTER = ("lock", ".tmp")
"""What a killed process may leave behind."""


def result(world: Path) -> dict[str, str]:
    found = {name: value for name, value in digests(world / "out").items() if not name.endswith((*TIMES, *LITTER))}
    # mteb's scores hold times; a run killed before it removes an old checkpoint has that one more.
    return {
        name: value for name, value in found.items() if not name.startswith(("scores/", "checkpoints/step-00000004"))
    }


def disturbed(world: Path, name: str, prelude: Prelude, *codes: int, more: str = "") -> str:
    outcome = run(world, f"{COMMANDS[name]} {more}".split(), prelude)
    assert outcome.code in codes, f"exit code {outcome.code}\n{outcome.output}"
    assert not outcome.left, outcome.left
    assert "Traceback" not in outcome.output
    return outcome.output


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("name", "pattern"), KILLS, ids=lambda value: value.strip("\\$"))
def test_killed(name: str, pattern: str, after: bool, world: Path, undisturbed: Callable[..., dict[str, str]]) -> None:
    disturbed(world, name, at(pattern, me(SIGKILL), after=after), -SIGKILL)
    if name == "export" and after:
        return  # it is there
    assert (outcome := run(world, COMMANDS[name].split())).code == 0, outcome.output
    assert result(world) == undisturbed(name)


MOMENTS = {
    "prepare": r"shard-000000\.idx\.npy$", "train": r"step-00000004$", "tokenize": r"ids\.npy$", "evaluate": r"scores\.json$", "export": r"out$",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP], ids=["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("name", COMMANDS)
def test_asked_to_end(name: str, number: int, world: Path, undisturbed: Callable[..., dict[str, str]]) -> None:
    """Training saves and ends with 0; the others end by the signal, Ctrl-C with 130. All go on."""
    saved = name == "train" and number != SIGHUP
    text = disturbed(world, name, at(MOMENTS[name], me(number)), *([0, 130] if saved else [-number, 130, 128 + number]))
    if number == SIGINT:
        assert "the same command continues" in text
    assert (outcome := run(world, COMMANDS[name].split())).code == 0, outcome.output
    if name != "train" or number == SIGHUP:  # a saved stop adds a checkpoint of its own
        assert result(world) == undisturbed(name)
    else:
        weights = "model/model.safetensors"
        assert result(world)[weights] == undisturbed(name)[weights]


def in_processes(then: Prelude) -> None:
    """However little there is to do, prepare's workers do it."""
    from jemb.prepare.engine import job

    job.SERIAL_BELOW = 0
    then()


@pytest.mark.slow
@pytest.mark.parametrize("number", [SIGKILL, SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize(
    ("name", "pattern", "more"),
    [("train", "step-00000002$", "workers=1"), ("prepare", r"\.json$", "workers=2")],
    ids=["train", "prepare"],
)  # fmt: skip
def test_workers_die(
    name: str, pattern: str, more: str, number: int, world: Path, undisturbed: Callable[..., dict[str, str]]
) -> None:
    """The command says that it lost them and ends with 1, or does without; afterwards the same command is done."""
    prelude = at(pattern, my_children(number), after=True)
    text = disturbed(world, name, partial(in_processes, prelude) if name == "prepare" else prelude, 0, 1, more=more)
    assert "worker" in text or "process" in text or not message_of_failure(text, name)
    assert (outcome := run(world, f"{COMMANDS[name]} {more}".split())).code == 0, outcome.output
    assert {k: v for k, v in result(world).items() if "step-" not in k} == {
        k: v for k, v in undisturbed(name).items() if "step-" not in k
    }


def message_of_failure(text: str, name: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(f"jemb {name}: ")), "")
