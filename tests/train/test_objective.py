"""A loss of a user's own: from Python and from the command line, in one process and in two, under its own name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jemb import registry
from jemb.app.compose import compose_config
from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.loss import Rows, Texts, make_objective
from jemb.registry import OBJECTIVES
from jemb.run_folder import read_position
from tests.helpers import users_losses
from tests.helpers.training_runs import SMALL, Training, losses, read_lines

MINE = "tests.helpers.users_losses:Ranking"
TRAIN: dict[str, Any] = {"shards": "s", "output": "o"}


def texts(rows: int = 4) -> Texts:
    vectors = torch.nn.functional.normalize(torch.randn(2, rows, 8), dim=-1).requires_grad_()
    hashes = torch.arange(2 * rows).view(2, rows)
    return Texts(*(Rows(v, v, h, h) for v, h in zip(vectors, hashes, strict=True)))


def test_of_the_command_line_in_one_process_and_in_two(
    tmp_path: Path, triplet_options: list[str], start: Callable[..., Training]
) -> None:
    """The one `Ranking` with K negatives, whatever the number of processes; and its options reach it."""
    options = [*triplet_options, f"objective={MINE}", "objective_options.scale=10", "temperature=0.5", "max_steps=5"]
    options.remove("objective=triplets")
    one, two = start(tmp_path / "one", options), start(tmp_path / "two", options, 2)
    one.succeed(), two.succeed()
    assert losses(one.run) == pytest.approx(losses(two.run), abs=1e-5)
    for run in (one.run, two.run):
        line = read_lines(run.metrics)[-1]
        assert line["loss_terms"] == {"ranking": pytest.approx(line["loss"]), "temperature": 0.5}
        assert line["negatives_per_query"] is None
        assert run.read_record()["objective"] == MINE
    assert (
        losses(one.run)[0] != losses(start(tmp_path / "other", [*options, "objective_options.scale=20"]).succeed())[0]
    )


def test_weights_of_its_own_are_trained_and_resumed_to_the_bit(
    tmp_path: Path, pair_options: list[str], start: Callable[..., Training]
) -> None:
    """Continued from step 2, the run ends with the bytes of one that was never stopped; the model has none of it."""
    options = [
        *pair_options,
        "objective=tests.helpers.users_losses:Learned",
        "objective_options.width=32",
        "max_steps=4",
    ]
    options += ["checkpoint_every=2", "keep_checkpoints=9"]
    whole = start(tmp_path / "whole", options).succeed()
    names = ("objectives.safetensors", "weights.safetensors", "optimizer.safetensors")
    shutil.copytree(whole.path, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "step-00000004")
    again = start(tmp_path / "again", options).succeed()
    (_, half), (_, last) = whole.checkpoints()
    for name in names:
        assert (again.checkpoint_folder / last.name / name).read_bytes() == (last / name).read_bytes()
    heads = load_file(last / names[0])
    assert set(heads) == {
        f"tests_helpers_users_losses:Learned.objective.{name}" for name in ("scale", "between.weight", "between.bias")
    }
    for name, value in load_file(half / names[0]).items():
        assert not torch.equal(value, heads[name])
        moment = load_file(last / names[2])[f"objectives.{name}.exp_avg"]
        assert moment.shape == value.shape
        assert moment.any()
    assert not [name for name in load_file(whole.model / "model.safetensors") if "between" in name]
    (last / names[0]).write_bytes(b"")
    with pytest.raises(InputError, match=r"objectives\.safetensors: not a readable checkpoint \(other bytes"):
        read_position(last)


def test_a_function_is_an_objective_too(tmp_path: Path, pair_shards: Path, start: Callable[..., Training]) -> None:
    options = [*SMALL, f"shards={pair_shards}", "global_batch_size=8", "max_steps=2"]
    run = start(tmp_path / "run", [*options, "objective=tests.helpers.users_losses:distance"]).succeed()
    line = read_lines(run.metrics)[-1]
    assert line["loss_terms"] == {"distance": pytest.approx(line["loss"])}


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("theirs", MINE, "jemb.objectives")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == entry.group else [])
    assert TrainConfig(**TRAIN, objective="theirs").takes_negatives
    assert "theirs" in OBJECTIVES.names()
    assert TrainConfig(**TRAIN, objective="distance", objective_options={"power": 1}).takes_negatives is False
    with pytest.raises(InputError, match="'pairs' is the package's own"):
        OBJECTIVES.add("pairs")


def test_one_that_is_given_is_taken() -> None:
    given = texts()
    assert make_objective(users_losses.distance)(given).terms.keys() == {"distance"}
    total = make_objective("distance", {"power": 1})(given).total
    assert torch.equal(total, users_losses.distance(given, power=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "distanec"}, "objective=distanec: there is no such objective (did you mean 'distance'?)"),
        ({"objective": "no_such_module:X"}, "objective=no_such_module:X: no_such_module cannot be imported"),
        ({"objective": "tests.helpers.users_losses:Rankin"}, "users_losses has no Rankin (did you mean 'Ranking'?)"),
        ({"objective": "tests.helpers.users_losses:NOTHING"}, "is 3; wanted a class or a function"),
        ({"objective": MINE, "objective_options": {"scal": 1}}, "'objective_options.scal' (did you mean 'scale'?)"),
        (
            {"objective": MINE, "matryoshka_widths": [8]},
            "matryoshka_widths is given, but objective=tests.helpers.users_losses",
        ),
        ({"objective_options": {"scale": 1}}, "unknown option 'objective_options.scale'"),
        ({"objective": "tests.helpers.users_losses:Weighted"}, "needs objective_options.in_features"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        TrainConfig(**TRAIN, **options)
    assert message in str(error.value)


def test_mistakes_of_a_loss() -> None:
    with pytest.raises(InputError, match=r"Broken: wanted a scalar tensor .*; got shape \(4,\)"):
        make_objective("tests.helpers.users_losses:Broken")(texts())


def test_values_of_any_kind_from_the_command_line() -> None:
    written = ["power=3", "objective_options.rate=1e-3", "objective_options.name=a b", "objective_options.on=true"]
    options = [
        f"objective_options.{written[0]}",
        *written[1:],
        "objective_options.none=null",
        "objective_options.l=[1, 2]",
    ]
    with pytest.raises(InputError, match="unknown option"):
        compose_config("train", TrainConfig, ["shards=s", "output=o", "objective=distance", *options])
    config = compose_config(
        "train", TrainConfig, ["shards=s", "output=o", "objective=tests.helpers.users_losses:Anything", *options]
    )
    assert config.objective_options == {
        "power": 3,
        "rate": 1e-3,
        "name": "a b",
        "on": True,
        "none": None,
        "l": [1, 2],
    }
