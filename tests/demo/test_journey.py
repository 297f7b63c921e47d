"""The whole journey through the command line, on files as a user would bring them, and the demo in small."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sentence_transformers import SentenceTransformer

from jemb.app.cli import main
from jemb.model import encode, load_encoder

ANIMALS = ["horse", "wolf", "eagle", "salmon", "spider", "tiger", "rabbit", "dolphin", "beetle", "falcon", "donkey"]
PLACES = ["forest", "river", "mountain", "desert", "garden", "valley", "island", "harbour", "meadow", "village", "lake"]
WHERE = "Where did the old {animal} near the {place} sleep on day {day}?"
THERE = "On day {day} the {animal} slept under a large tree beside the {place}, from {hour} o'clock on."


def pairs(number: int, seed: int) -> list[dict[str, object]]:
    """Plain English questions with answers that share their subject, and a wrong answer for each."""
    choose = random.Random(seed)
    rows: list[dict[str, object]] = []
    for animal in ANIMALS:
        for place in PLACES:
            facts = {"animal": animal, "place": place, "day": choose.randint(1, 28), "hour": choose.randint(1, 12)}
            wrong = f"Nobody has ever seen a {animal} that lives close to the {choose.choice(PLACES)}."
            rows.append({"question": WHERE.format(**facts), "answer": THERE.format(**facts), "wrong": [wrong]})
    choose.shuffle(rows)
    return rows[:number]


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


TINY = ["model.hidden_size=32", "model.num_layers=1", "model.vocab_size=500", "workers=0", "max_length=32"]


def test_from_files_to_an_exported_model(tmp_path: Path) -> None:
    raw, triplets = tmp_path / "raw", tmp_path / "raw triplets"
    raw.mkdir()
    triplets.mkdir()
    rows = pairs(120, seed=0)
    with (raw / "farm.jsonl").open("w") as file:
        for row in [
            *rows[:60],
            rows[0],
            {"question": "Wo schläft der alte Hund in der Nacht?", "answer": rows[0]["answer"]},
        ]:
            file.write(json.dumps({"question": row["question"], "answer": row["answer"]}) + "\n")
        file.write("this is no JSON\n")
    columns = [{"question": row["question"], "answer": row["answer"]} for row in rows[60:]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), raw / "zoo.parquet")
    with (triplets / "hard.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    fields = ["fields.query=question", "fields.positive=answer", "fields.negatives=wrong"]

    run("prepare", f"input={raw}", f"output={tmp_path}/shards", *fields, "max_unreadable=0.1", "consistency.top_k=20")
    farm = json.loads((tmp_path / "shards" / "farm" / "manifest.json").read_text())
    counts = {stage["name"]: stage for stage in farm["stages"]}
    assert counts["read"]["dropped"]["unreadable"] == 1
    assert counts["exact"]["dropped"] == {"duplicate": 1}
    assert counts["language"]["dropped"] == {"language:de": 1}
    drops = sum(sum(stage["dropped"].values()) for stage in farm["stages"])
    assert farm["num_samples"] + drops == 63
    run("prepare", f"input={triplets}", f"output={tmp_path}/hard shards", *fields, "stages=exact")

    run("train", f"shards={tmp_path}/shards", f"output={tmp_path}/pairs", "max_steps=12", "global_batch_size=16",
        "learning_rate=2e-3", *TINY)  # fmt: skip
    run("train", f"shards={tmp_path}/hard shards", f"output={tmp_path}/triplets", f"init={tmp_path}/pairs", "workers=0",
        "objective=triplets", "max_steps=6", "global_batch_size=16", "learning_rate=1e-3")  # fmt: skip
    losses = [json.loads(line)["loss"] for line in (tmp_path / "pairs" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])

    with (tmp_path / "sts.jsonl").open("w") as file:
        for number, row in enumerate(rows[:10]):
            other = rows[number]["answer"] if number % 2 else rows[number + 1]["answer"]
            line = {"sentence1": row["answer"], "sentence2": other, "score": number % 2 + number / 100}
            file.write(json.dumps(line) + "\n")
    with (tmp_path / "negation.jsonl").open("w") as file:
        for row in pairs(60, seed=1):  # of other days than the rows of training
            line = {"anchor": row["question"], "entailment": row["answer"], "negative": row["wrong"][0]}
            file.write(json.dumps(line) + "\n")
    tasks = [f"sts:{tmp_path}/sts.jsonl", f"negation:{tmp_path}/negation.jsonl"]
    scores = {}
    for model in ("pairs/start", "triplets"):
        run("evaluate", f"model={tmp_path}/{model}", f"tasks=[{','.join(tasks)}]", f"output={tmp_path}/scores.json")
        scores[model] = json.loads((tmp_path / "scores.json").read_text())
    assert scores["pairs/start"][tasks[1]]["hard_negation"] < 30, "the words of an answer and a wrong one are alike"
    assert scores["triplets"][tasks[1]]["hard_negation"] > 80
    assert scores["triplets"][tasks[0]] != scores["pairs/start"][tasks[0]]

    run("export", f"run={tmp_path}/triplets", f"output={tmp_path}/model")
    texts = ["Where did the old horse sleep?", "naïve café", "x"]
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts)
    ours = encode(load_encoder(str(tmp_path / "triplets")), texts)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "hard" in card
    assert "spearman" in card
    run("inspect", f"path={tmp_path}/shards", "verify=true")
    run("inspect", f"path={tmp_path}/triplets")


@pytest.mark.slow
def test_the_demo_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "demo"
    options = {"output": str(output), "max_pairs": 400, "pair_steps": 3, "triplet_steps": 2}
    command = ["demo", *(f"{name}={value}" for name, value in options.items())]
    run(*command)
    table = capsys.readouterr().out
    results = json.loads((output / "scores" / "scores.json").read_text())["scores"]
    rows = {line[:14].strip(): line[14:].split() for line in table.splitlines()}
    for model, title in zip(results, ["untrained", "after pairs", "after triplets", "BM25"], strict=True):
        scores = {metric: value for metrics in results[model].values() for metric, value in metrics.items()}
        names = ["ndcg_at_10", "easy_negation", "hard_negation"]
        assert rows[title] == [f"{scores[name]:.1f}" if name in scores else "–" for name in names]
        assert all(0 <= value <= 100 for value in scores.values())
        assert ("hard_negation" in scores) == (title != "BM25")
    summary = json.loads((output / "results.json").read_text())
    assert list(summary) == ["untrained", "pairs", "triplets", "bm25"]
    for (name, scores), model in zip(summary.items(), results, strict=True):
        wanted = {"retrieval_ndcg_at_10"} | ({"easy_negation", "hard_negation"} if name != "bm25" else set())
        assert set(scores) == wanted
        metrics = {metric: value for found in results[model].values() for metric, value in found.items()}
        assert all(value == metrics[metric.removeprefix("retrieval_")] for metric, value in scores.items())
    page = (output / "report.html").read_text()
    assert page.count("<img") >= 4
    assert "http" not in page.split("<body")[1].replace("http://www.w3.org", "")
    assert SentenceTransformer(str(output / "model"), device="cpu").encode("a text").shape == (256,)
    # Again: nothing is prepared or trained a second time, and the result is the same.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}
    run(*command)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")} == before
    assert len(json.loads((output / "runs" / "pairs" / "run.json").read_text())["starts"]) == 2
    assert json.loads((output / "scores" / "scores.json").read_text())["scores"] == results


def test_the_demo_leaves_a_foreign_folder_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["demo", f"output={tmp_path}"]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
