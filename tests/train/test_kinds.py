"""Data sets of four kinds and of several right answers in one run: each learned by its own objective, from texts and
from stored tokens, on one process and on two, killed and continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import jemb
from jemb.config import ModelConfig, TokenizeConfig
from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.data import wanted as checks
from jemb.data.wanted import Wanted, check_samples
from jemb.model import make_tiny
from jemb.shards import open_datasets
from jemb.train.dry_run import dry_run
from tests.helpers.made_shards import WORDS, write_shards
from tests.helpers.training_runs import SMALL, Training, losses, read_lines, slowly

Start = Callable[..., Training]
TERMS = {
    "answers": {"query_to_positive", "positive_to_query"},
    "classes": {"supcon"},
    "graded": {"cosent"},
    "taught": {"kl"},
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")

    def text(n: int, side: str) -> str:
        return f"{WORDS[n % len(WORDS)]} {WORDS[n // len(WORDS) % len(WORDS)]} {side}"

    rows = range(48)
    write_shards(
        folder / "answers",
        "answers",
        [
            Sample(f"{n}", text(n, "asked"), text(n, "said"), more_positives=(text(n, "too"),) if n % 3 else ())
            for n in rows
        ],
    )
    write_shards(
        folder / "graded",
        "graded",
        [Sample(f"{n}", text(n, "one"), text(n * 7, "two"), score=float(n % 5)) for n in rows],
    )
    write_shards(folder / "classes", "classes", [Sample(f"{n}", text(n, ""), text(n, ""), label=n % 4) for n in rows])
    write_shards(
        folder / "taught",
        "taught",
        [
            Sample(
                f"{n}",
                text(n, "asked"),
                text(n, "said"),
                tuple(text(n + k, "wrong") for k in range(1, 2 + n % 2)),
                scores=(4.0, *[float(k) for k in range(1, 2 + n % 2)]),
            )
            for n in rows
        ],
    )
    return folder


@pytest.fixture(scope="module")
def options(kinds: Path) -> list[str]:
    how = ["max_steps=16", "global_batch_size=8", "num_negatives=2", "num_positives=2", "checkpoint_every=4"]
    return [f"shards={kinds}", "objective=auto", "log_samples=true", "trackers=[csv]", *how, *SMALL]


@pytest.mark.slow
def test_four_kinds_on_two_processes_killed_and_continued(tmp_path: Path, start: Start, options: list[str]) -> None:
    whole = start(tmp_path / "whole", options).succeed()
    lines = read_lines(whole.metrics)
    assert {line["dataset"]: set(line["loss_terms"]) for line in lines} == TERMS
    assert {line["dataset"] for line in lines if line["positives_short"]} == {"answers"}
    assert {line["dataset"] for line in lines if line["negatives_short"]} == {"taught"}
    kept = whole.read_record("datasets")["datasets"]
    assert {name: data["objective"] for name, data in kept.items()} == {
        "answers": "pairs",
        "classes": "labelled",
        "graded": "scored",
        "taught": "distill",
    }
    training = start(tmp_path / "run", options, processes=2, prelude=slowly)
    training.wait_for_step(6)
    training.kill()
    run = start(tmp_path / "run", options, processes=2).succeed()
    assert run.samples.read_bytes() == whole.samples.read_bytes()
    assert losses(run) == pytest.approx(losses(whole), abs=1e-5)


def test_stored_tokens_give_the_same(tmp_path: Path, kinds: Path, start: Start, options: list[str]) -> None:
    size = ModelConfig(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2)
    make_tiny(WORDS * 9, size, seed=1, max_length=8).save(tmp_path / "model")
    jemb.tokenize(TokenizeConfig(shards=kinds, model=tmp_path / "model", output=tmp_path / "tokens", workers=1))
    given = [option for option in options if not option.startswith(("model.", "max_length"))]
    given += [f"model.path={tmp_path / 'model'}", "max_steps=8"]
    texts = start(tmp_path / "texts", given).succeed()
    tokens = start(tmp_path / "stored", [*given, f"tokens={tmp_path / 'tokens'}"]).succeed()
    assert losses(tokens) == losses(texts)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("graded", {}, r"objective=pairs would take every positive for a right answer, but data set graded .*scored"),
        (
            "graded",
            {"objective": "labelled"},
            r"objective=labelled needs a 'label' of each sample, but data set graded",
        ),
        ("classes", {"objectives": {"classes": "pairs"}}, r"classes .* is of kind labelled: use objective=auto"),
        ("answers", {"objectives": {"answer": "pairs"}}, r"objectives\.answer: no such data set .*mean 'answers'"),
        (
            "answers",
            {"objective": "auto", "objective_options": {"x": 1}},
            "objective_options.x: none of the objectives",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, kinds: Path, name: str, more: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        jemb.train(jemb.TrainConfig(shards=str(kinds / name), output=str(tmp_path / "run"), max_steps=2, **more))


@pytest.mark.parametrize("labels", [range(8), [1] * 7 + ["1"]])
def test_labels_that_teach_nothing_are_refused(tmp_path: Path, labels: Sequence[int | str]) -> None:
    write_shards(tmp_path / "d", "d", [Sample(f"{n}", f"text {n}", f"text {n}", label=y) for n, y in enumerate(labels)])
    config = jemb.TrainConfig(shards=tmp_path / "d", output=tmp_path / "run", objective="auto", global_batch_size=8)
    with pytest.raises(InputError, match=r"data set d: its 8 samples have \d labels? .* wants several"):
        dry_run(config)


def test_labels_are_refused_only_where_all_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by those of a part of the samples, nor where none can be read, which the step that wants them says."""
    samples = [Sample(f"{n}", f"text {n}", f"text {n}", label=n) for n in range(8)]
    folder = write_shards(tmp_path / "d", "d", samples)
    wanted = Wanted("labelled")
    with pytest.raises(InputError, match="wants several"):
        check_samples(open_datasets(folder)["d"], wanted)
    monkeypatch.setattr(checks, "LOOKED_AT", 4)
    check_samples(open_datasets(folder)["d"], wanted)
    monkeypatch.undo()
    (tar,) = folder.glob("*.tar")
    tar.write_bytes(tar.read_bytes().replace(b'{"query"', b'{"quer":'))
    check_samples(open_datasets(folder)["d"], wanted)


def test_options_that_no_data_set_has_a_use_for_are_named(
    tmp_path: Path, kinds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"temperature": 0.1, "margin": 0.1, "num_negatives": 2, "num_positives": 2, "global_batch_size": 8}
    dry_run(jemb.TrainConfig(shards=kinds / "graded", output=tmp_path / "run", objective="auto", **options))
    assert "temperature, margin, num_negatives: not used, as scored does not take it" in caplog.text
    assert "num_positives=2: not used, as no row has `positives`" in caplog.text
    caplog.clear()
    dry_run(jemb.TrainConfig(shards=kinds, output=tmp_path / "run", objective="auto", **options | {"margin": 0.05}))
    assert "not used" not in caplog.text


def test_graded_pairs_may_be_taken_for_right_answers(kinds: Path) -> None:
    data = jemb.PairData(kinds / "graded", objectives={"graded": "pairs"})
    assert data.wanted()["graded"].objective == "pairs"
