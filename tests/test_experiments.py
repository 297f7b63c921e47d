"""The experiments' runner in small on made-up data, its arithmetic by hand, and the recipes."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiments import tables
from benchmarks.experiments.__main__ import main
from benchmarks.experiments.lab import Lab, read_lines
from benchmarks.experiments.material import Material
from benchmarks.experiments.noise import SHARES, make_raw
from benchmarks.experiments.sources import prepare
from jemb.app.compose import compose_config
from jemb.config import TrainConfig
from jemb.shards import open_datasets

ROOT = Path(__file__).parent.parent
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


def run(monkeypatch: pytest.MonkeyPatch, data: Path, output: Path, *names: str) -> list[dict[str, Any]]:
    options = ["--data", str(data), "--output", str(output), "--seeds", "3"]
    options += ["--train", "max_steps=2", "global_batch_size=16"]
    monkeypatch.setattr("sys.argv", ["experiments", *names, *options])
    main()
    return read_lines(output / "results.jsonl")


def test_ablation_and_peer_from_raw_files_to_tables(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(monkeypatch, data, tmp_path, "ablation", "peer")
    results = [line for line in found if line["experiment"] != "kinds"]
    arms = {"untrained", "raw", "deduplicated", "language", "consistency", "few raw", "jemb, equal"}
    arms |= {"ST, equal", "ST on raw", "ST on clean"}
    assert {line["arm"] for line in results} == arms
    assert all(set(line["scores"]) == {"sick_dev", "stackfaq"} for line in results)
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


def test_local_negatives_are_those_of_one_process(data: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path, Material(data), ["max_steps=2", "global_batch_size=16", "mask_equal_texts=false"])
    shards, _ = prepare(lab)
    for processes, local, negatives in ((1, False, 15), (2, True, 7)):
        run = lab.train("negatives", f"{processes}", 0, shards, processes=processes, local=local)
        assert [line["negatives_per_query"] for line in read_lines(run / "metrics.jsonl")] == [negatives] * 2


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
        assert "\n".join(lines) in shown, table


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_compose_and_have_the_papers_constants(name: str) -> None:
    config = compose_config("train", TrainConfig, [f"experiment={name}", "shards=a", "output=b"])
    assert config.temperature == 0.05
    assert config.objective == name.rpartition("_")[2]
    if config.objective == "triplets":
        assert config.margin == 0.05
    if name.startswith("jina"):
        size = name.split("_")[1]
        assert (config.model.path, config.model.pooling) == (f"google-t5/t5-{size}", "mean")
        assert (config.max_length, config.precision) == (512, "fp32")
        assert config.global_batch_size == (16384 if config.objective == "pairs" else 256)
    else:
        assert config.max_steps is not None
