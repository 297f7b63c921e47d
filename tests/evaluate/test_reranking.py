"""Reranking: metrics worked out by hand, ties, and the rows that cannot be ranked. mteb is asked in test_mteb_tasks."""

import json
from pathlib import Path

import pytest

from jemb.core.errors import InputError
from jemb.evaluate import load_task, score
from jemb.evaluate.ranking import RerankingTask
from tests.helpers.made_tasks import at_angle


def write(path: Path, rows: list[tuple[str, object, object]]) -> str:
    lines = [dict(zip(("query", "positive", "negative"), row, strict=True)) for row in rows]
    path.write_text("\n".join(map(json.dumps, lines)))
    return f"reranking:{path}"


def test_by_hand(tmp_path: Path) -> None:
    rows = [
        ("0", ["20", "40"], ["10", "30", "50"]),  # ranks 2 and 4: AP (1/2 + 2/4) / 2, RR 1/2
        ("90", "91", ["0"]),  # one text is a list of one; rank 1
        ("0", ["60"], [str(i) for i in range(1, 12)]),  # rank 12: AP 1/12, beyond the first ten
    ]
    metrics = score(at_angle, write(tmp_path / "a.jsonl", rows))
    assert metrics["map"] == pytest.approx(100 * (1 / 2 + 1 + 1 / 12) / 3)
    assert metrics["mrr_at_10"] == pytest.approx(100 * (1 / 2 + 1 + 0) / 3)


def test_a_table_holds_lists_as_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('query,positive,negative\n0,"[""20"", ""40""]","[""10"", ""30""]"\n0,[1],"[2] x"\n')
    task = load_task(f"reranking:{tmp_path / 'a.csv'}")
    assert isinstance(task, RerankingTask)
    assert task.positives == [["20", "40"], ["[1]"]]
    assert task.negatives == [["10", "30"], ["[2] x"]]


def test_ties_go_to_what_does_not_answer(tmp_path: Path) -> None:
    task = write(tmp_path / "a.jsonl", [("0", ["10"], ["-10", "10"])])
    assert score(at_angle, task) == {"map": pytest.approx(100 / 3), "mrr_at_10": pytest.approx(100 / 3)}


def test_rows_without_either_side_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("0", ["20"], ["10"]), ("0", [], ["10"]), ("0", ["10"], [])]
    assert score(at_angle, write(tmp_path / "a.jsonl", rows))["map"] == 50
    assert "2 rows without a positive or without a negative" in caplog.text
    with pytest.raises(InputError, match="no row has both"):
        load_task(write(tmp_path / "b.jsonl", rows[1:]))


@pytest.mark.parametrize("wrong", [3, None, [1], ["a", None], {"a": "b"}])
def test_what_is_no_list_of_texts_is_named(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(InputError, match=r"line 1: field 'positive' is .*; wanted a list of texts"):
        load_task(write(tmp_path / "a.jsonl", [("0", wrong, ["10"])]))


def test_bm25_puts_the_candidates_of_each_query_in_order() -> None:
    task = RerankingTask(
        "r", ["red cat", "blue dog"], [["a red cat sat"], ["dog"]], [["cat", "tree"], ["the blue dog barks"]]
    )
    metrics = {name: score.value for name, score in task.measure_bm25().scores.items()}
    assert metrics == {"map": pytest.approx(75), "mrr_at_10": pytest.approx(75)}
