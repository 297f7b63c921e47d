"""Several positives, scores, labels and a teacher's scores: from the input to the shards, through stages that change
what they belong to."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jemb
from jemb.config import InspectConfig
from jemb.core.records import Sample
from jemb.inspect import inspect
from jemb.prepare import prepare
from jemb.prepare.engine.table import Piece, Table, Verdict, write_table
from jemb.prepare.engine.verdicts import write_verdict
from jemb.shards import ShardReader, adopt
from tests.helpers.prepare_tools import TOOLS

ANSWERS = ("amber", "birch", "cedar")


def prepared(folder: Path, rows: list[dict[str, Any]], stages: tuple[str, ...] = ("exact",), **options: Any) -> Any:
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = folder / f"shards{len(list(folder.glob('shards*')))}"
    config = jemb.PrepareConfig(
        input=str(folder / "raw"), output=str(output), stages=list(stages), workers=1, max_unreadable=1.0, **options
    )
    (manifest,) = jemb.prepare(config)
    return manifest, {sample.query: sample for sample in ShardReader(output / "d")}, output / "d"


def test_each_kind(tmp_path: Path) -> None:
    pairs = [{"query": f"q{n}", "positives": [f"p{n}", f"r{n}"][: 1 + n % 2]} for n in range(4)]
    manifest, samples, _ = prepared(tmp_path, pairs)
    assert (manifest.kind, manifest.fields) == ("pairs", ("positives",))
    assert [samples[f"q{n}"].positives for n in range(2)] == [("p0",), ("p1", "r1")]

    scored = [{"query": f"q{n}", "positive": f"p{n}", "score": n / 4} for n in range(4)]
    manifest, samples, _ = prepared(tmp_path, scored)
    assert (manifest.kind, manifest.fields) == ("scored", ("score",))
    assert [samples[f"q{n}"].score for n in range(4)] == [0, 0.25, 0.5, 0.75]

    labelled = [{"query": f"q{n}", "label": "even" if n % 2 else 7} for n in range(4)]
    manifest, samples, folder = prepared(tmp_path, labelled)
    assert (manifest.kind, manifest.fields) == ("labelled", ("label",))
    assert [samples[f"q{n}"].label for n in range(2)] == [7, "even"]
    assert samples["q0"].positive == "q0"
    assert b'{"query":"q0","label":7}' in (folder / "shard-000000.tar").read_bytes()

    both = [{"query": f"q{n}", "positive": f"p{n}", "label": n} for n in range(4)]
    manifest, samples, _ = prepared(tmp_path, both)
    assert (manifest.kind, manifest.fields) == ("labelled", ("label", "positive"))

    taught = [
        {"query": f"q{n}", "positive": f"p{n}", "negatives": [f"n{n}", f"m{n}"], "marks": [3, 1, n]} for n in range(4)
    ]
    fields = {"scores": "marks"}
    manifest, samples, folder = prepared(tmp_path, taught, fields=fields)
    assert (manifest.kind, manifest.fields) == ("distill", ("scores",))
    assert samples["q2"] == Sample(samples["q2"].key, "q2", "p2", ("n2", "m2"), scores=(3, 1, 2))
    shown = inspect(InspectConfig(path=str(folder), samples=1))
    assert "4 distill (with scores)" in shown
    assert "scores:   (3.0, 1.0," in shown


def test_a_negative_that_is_a_further_positive_goes(tmp_path: Path) -> None:
    row = {"query": "q", "positives": ["p", "r"], "negatives": ["n", "R ", "m"]}
    _, samples, _ = prepared(tmp_path, [row])
    assert (samples["q"].positives, samples["q"].negatives) == (("p", "r"), ("n", "m"))


def test_rows_that_lack_what_others_have_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where they are not in the first part or piece, and other records before them are no rows."""
    scored: list[dict[str, Any]] = [{"query": f"q{n}", "positive": f"p{n}", "score": n / 4} for n in range(9)]
    scored[2], scored[7] = {"query": 3}, {"query": "which one?", "positive": "this"}
    with pytest.raises(jemb.InputError, match=r"7 of 8 rows have the field 'score'.* is record 8 \('which one\?'\)"):
        prepared(tmp_path, scored)
    for missing in ({}, {"positive": None}, {"positive": " "}):  # the last as an empty cell of a table
        caplog.clear()
        labelled = [{"query": f"q{n}", "label": n % 2, "positive": f"p{n}"} for n in range(1, 4)]
        _, samples, _ = prepared(tmp_path, [{"query": "q0", "label": 0, **missing}, *labelled])
        assert samples["q0"].positive == "q0"
        assert "d: 1 of 4 rows have no positive but their query, which is taken for one" in caplog.text


def test_scores_stay_with_their_texts(tmp_path: Path) -> None:
    """`exact` takes out a negative that is the positive once more, and its score with it."""
    row = {"query": "q", "positive": "p", "negatives": ["n", "P ", "m"], "scores": [4, 1, 3.9, None]}
    _, samples, _ = prepared(tmp_path, [row])
    assert (samples["q"].negatives, samples["q"].scores) == (("n", "m"), (4, 1, None))
    row = {"query": "q", "positive": "p", "negatives": ["n", "p", "n"], "scores": [4, 1, 2, 3]}
    _, samples, _ = prepared(tmp_path, [row])
    assert (samples["q"].negatives, samples["q"].scores) == (("n",), (4, 1))


def test_a_stage_that_scores_and_one_that_adds_negatives_after_it(tmp_path: Path) -> None:
    """Texts of which the teacher knows nothing have no score; rows that are dropped in between shift no score."""
    import pyarrow as pa

    from jemb.prepare.engine.table import PIECE_SCHEMA

    texts = [[0, 1, 2], ["a", "b", "c"], ["A", "B", "C"], [["x"], ["y"], ["z"]], [""] * 3, [[], ["bb"], []]]
    columns = [*texts, [None] * 3, [None] * 3, [[]] * 3]
    write_table(tmp_path / "piece.arrow", pa.table(columns, schema=PIECE_SCHEMA))
    table = Table((Piece(tmp_path / "piece.arrow", 10, 3, 3),))
    every = ("query", "positive", "negatives", "more_positives", "scores")

    def judged(table: Table, name: str, make: Any) -> Table:
        folder = tmp_path / name
        folder.mkdir()
        rows = table.read(0, every)
        write_verdict(folder, 0, rows, make(rows))
        return table.judged(folder)

    assert not table.has_scores()
    table = judged(table, "teach", lambda rows: Verdict(scores=[(1.0, 2.0), (3.0, 4.0, 5.0), (6.0, 7.0)]))
    table = judged(table, "drop", lambda rows: Verdict(dropped={0: ("gone", "")}))
    table = judged(
        table, "mine", lambda rows: Verdict(negatives=[("new", "y"), ("z",)], more_positives=[("bb",), ("cc",)])
    )
    rows = table.read(0, every)
    assert table.has_scores()
    assert rows.ids.tolist() == [11, 12]
    assert rows.more_positives == [("bb",), ("cc",)]
    assert rows.scores == [(3.0, 4.0, None, 5.0), (6.0, None, 7.0)]
    assert table.read(0, ("scores",)).scores == rows.scores


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": "q", "positive": "p", "score": "high"}, "field 'score' is str ('high'); wanted a number"),
        ({"query": "q", "positive": "p", "score": float("nan")}, "field 'score' is float (nan); wanted a number"),
        (
            {"query": "q", "positive": "p", "label": 0.5},
            "field 'label' is float (0.5); wanted a whole number or a text",
        ),
        (
            {"query": "q", "positive": "p", "scores": [1, 2]},
            "'scores' is a list of 2; wanted a number, or null, for each of 1",
        ),
        ({"query": "q", "positives": [3]}, "one of 'positives' is int (3); wanted text"),
    ],
)
def test_what_is_no_supervision_is_a_row_that_cannot_be_read(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    _, _, folder = prepared(tmp_path, [row, {"query": "a", "positive": "b"}])
    (line,) = map(json.loads, (folder / "unreadable.jsonl").read_text().splitlines())
    assert reason in line["reason"]


def test_all_rows_have_it_or_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"query": f"q{n}", "positive": f"p{n}", **({"score": n} if n else {})} for n in range(3)]
    with pytest.raises(jemb.InputError, match=r"2 of 3 rows have the field 'score' .*fields\.score=null"):
        prepared(tmp_path, rows)
    manifest, samples, _ = prepared(tmp_path, rows, fields={"score": None})
    assert (manifest.kind, samples["q1"].extra) == ("pairs", {"score": 1})
    with caplog.at_level(logging.INFO):
        prepared(tmp_path, rows[1:])
    assert "d: its rows have the field score: a data set of kind scored" in caplog.text
    prepared(tmp_path, [row | {"negative": "n"} for row in rows[1:]])
    assert "d: 2 of its rows have hard negatives, which objective=scored does not use" in caplog.text


def test_a_first_positive_that_says_nothing_does_not_take_the_others_along(tmp_path: Path) -> None:
    rows = [{"query": "q", "positives": ["Q ", "a"]}, {"query": "r", "positive": "", "positives": ["b", "c"]}]
    _, samples, _ = prepared(tmp_path, rows, stages=("exact",))
    assert (samples["q"].positives, samples["r"].positives) == (("a",), ("b", "c"))


class Scorer:
    """A cross-encoder that gives the number at the end of the passage."""

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray[Any, Any]:
        return np.array([float(text.split()[-1]) for _, text in pairs], np.float32)


def scorers(options: Any) -> Any:
    return lambda model: Scorer()


def test_a_cross_encoder_as_the_teacher(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "raw").mkdir()
    rows: list[dict[str, Any]] = [
        {"query": "a", "positives": ["p 3", "r 2"], "negatives": ["n 2.5", "n -1.5"]},
        {"query": "c", "positive": "p 0.25", "negatives": ["n 0"]},
    ]
    (tmp_path / "raw" / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "raw" / "pairs.jsonl").write_text(json.dumps({"query": "b", "positive": "p 1"}))
    config = jemb.PrepareConfig(
        input=str(tmp_path / "raw"),
        output=str(tmp_path / "out"),
        stages=["cross_encoder"],
        cross_encoder={"write_scores": True, "min_score": 0.5, "kappa": 1},
        workers=1,
        max_unreadable=1.0,
    )
    tools = replace(TOOLS, cross_encoder=scorers)
    manifest, pairs = prepare(config, tools)
    assert (manifest.kind, manifest.fields) == ("distill", ("positives", "scores"))
    assert (pairs.kind, pairs.fields) == ("distill", ("scores",))
    (sample,) = ShardReader(tmp_path / "out" / "d")
    assert (sample.negatives, sample.scores) == (("n -1.5",), (3, 2, -1.5))
    assert next(iter(ShardReader(tmp_path / "out" / "pairs"))).scores == (1,)
    assert manifest.stages[-1].dropped == {"low_score": 1}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "the positive scores below `min_score`" in page
    assert "Score of the positive" in page

    for row, scores in zip(rows, ([9, 9, 9, 9], [9, 9]), strict=True):
        row["scores"] = scores
    (tmp_path / "raw" / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(replace(config, overwrite=True), tools)
    assert {sample.scores for sample in ShardReader(tmp_path / "out" / "d")} == {(3, 2, -1.5)}
    assert "get no scores" not in caplog.text
    prepare(replace(config, overwrite=True, stages=["negation"], negation={"unmatched": "keep"}), tools)
    assert "d: the negatives of negation get no scores, so objective=distill leaves them out" in caplog.text


def test_tars_of_others(tmp_path: Path) -> None:
    """The first sample says what they have."""
    _, _, folder = prepared(tmp_path, [{"query": f"q{n}", "positive": f"p{n}", "score": n} for n in range(3)])
    for name in ("manifest.json", "shard-000000.idx.npy"):
        (folder / name).unlink()
    manifest = adopt(folder)
    assert (manifest.kind, manifest.fields) == ("scored", ("score",))
    assert {sample.query: sample.score for sample in ShardReader(folder)} == {"q0": 0, "q1": 1, "q2": 2}


def test_a_table_of_texts(tmp_path: Path) -> None:
    """In a CSV file numbers and lists are text."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "d.csv").write_text('query,positives,scores\na,"[""b"", ""c""]","[0.5, 2]"\n')
    jemb.prepare(jemb.PrepareConfig(input=str(tmp_path / "raw"), output=str(tmp_path / "out"), stages=[], workers=1))
    (sample,) = ShardReader(tmp_path / "out" / "d")
    assert (sample.positives, sample.scores) == (("b", "c"), (0.5, 2.0))


def test_a_text_of_the_evaluation_among_further_positives(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "the quick brown fox jumps"}))
    rows = [
        {"query": f"question {n}", "positives": [f"answer {n}", "The quick brown fox jumps"][: n + 1]} for n in range(2)
    ]
    _, samples, _ = prepared(
        tmp_path, rows, ("decontaminate",), decontaminate={"against": [str(tmp_path / "test.jsonl")]}
    )
    assert list(samples) == ["question 0"]


def test_an_empty_cell_is_no_score(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "d.csv").write_text("query,positive,score,label\na,b,0.5,\nc,d,1,\n")
    jemb.prepare(jemb.PrepareConfig(input=str(tmp_path / "raw"), output=str(tmp_path / "out"), stages=[], workers=1))
    reader = ShardReader(tmp_path / "out" / "d")
    assert reader.manifest.kind == "scored"
    assert {sample.score for sample in reader} == {0.5, 1.0}


def test_graded_pairs_are_not_filtered_as_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An overlap of all words would drop each of them, were they pairs."""
    rows = [{"query": f"one two three {n}", "positive": f"three two one {n}", "score": n} for n in range(4)]
    assert (
        prepared(
            tmp_path, [{**row, "score": None} for row in rows] + [{"query": "a b c", "positive": "d e f"}], ("overlap",)
        )[0].num_samples
        == 1
    )
    manifest, _, _ = prepared(tmp_path, rows, ("overlap",))
    assert manifest.num_samples == 4
    assert (
        "d: overlap is not run, because it takes positives for right answers, and these rows are scored" in caplog.text
    )
