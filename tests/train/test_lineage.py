"""What a run inherits from the model it starts from: the record of its training, and its prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jemb.config import ExportConfig
from jemb.export import export
from jemb.lineage import public_name, stages_before, stages_of, training_seconds
from jemb.model import load_encoder
from jemb.run_folder import RunFolder
from tests.helpers.training_runs import Training

Start = Callable[..., Training]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, pair_options: list[str]) -> RunFolder:
    """A run on pairs with prompts."""
    options = [*pair_options, "max_steps=4", "prompts.query=ask: ", "prompts.document=say: "]
    return Training(tmp_path_factory.mktemp("first") / "pairs", options).succeed()


def test_the_data_of_all_stages_and_the_prompts_come_along(
    first: RunFolder, start: Start, triplet_options: list[str], tmp_path: Path
) -> None:
    own = json.loads((first.model / "config_sentence_transformers.json").read_text())
    assert own["prompts"] == {"query": "ask: ", "document": "say: "}
    exported = export(ExportConfig(run=str(first.path), output=str(tmp_path / "between")))
    for name, init in (("of a run", first.path), ("of its model", first.model), ("of an exported folder", exported)):
        assert [stage["name"] for stage in stages_before(str(init))] == ["pairs"], name
    second = start(tmp_path / "second", [*triplet_options, "max_steps=2", f"init={exported}"]).succeed()
    pairs, triplets = stages_of(second)
    assert sorted(pairs["datasets"]) == ["all-titles.v2", "answers"]
    assert list(triplets["datasets"]) == ["nli"]
    assert (pairs["objective"], triplets["objective"]) == ("pairs", "triplets")
    assert (pairs["started_from"], triplets["started_from"]) == (None, "between")
    assert (pairs["steps"], triplets["steps"]) == (4, 2)
    assert (pairs["settings"]["warmup_steps"], pairs["settings"]["precision"]) == (0, "fp32")
    assert load_encoder(str(second.model)).prompts == own["prompts"]
    # What is known of the past does not depend on the old folders, once the run has started.
    exported.rename(tmp_path / "elsewhere")
    start(tmp_path / "second", [*triplet_options, "max_steps=3", f"init={exported}"]).succeed()
    assert [stage["name"] for stage in stages_of(second)] == ["pairs", "second"]


def test_prompts_change_what_is_learnt_and_can_be_others(
    first: RunFolder, start: Start, pair_options: list[str], tmp_path: Path
) -> None:
    plain = start(tmp_path / "plain", [*pair_options, "max_steps=4"]).succeed()
    assert plain.read_metrics()[0]["loss"] != first.read_metrics()[0]["loss"]
    other = start(tmp_path / "other", [*pair_options, "max_steps=1", f"init={first.path}", "prompts.query=q: "])
    assert load_encoder(str(other.succeed().model)).prompts == {"query": "q: ", "document": "say: "}


def test_seconds_are_those_of_the_steps(first: RunFolder) -> None:
    lines = first.read_metrics()
    seconds = training_seconds(first)
    assert seconds == sum(line["seconds"] for line in lines)
    assert lines[-1]["time"] - lines[0]["time"] <= seconds
    assert all(line["seconds"] >= line["tokens"] / line["tokens_per_second"] for line in lines)


@pytest.mark.parametrize(
    ("given", "shown"),
    [(None, None), ("google-t5/t5-small", "google-t5/t5-small"), ("/home/me/runs/a", "a"), ("./b", "b"), ("~/c", "c")],
)
def test_names_that_may_be_published(given: str | None, shown: str | None) -> None:
    assert public_name(given) == shown
