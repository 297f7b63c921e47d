"""Mining against a brute-force loop over all passages, and its laws on real files."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jemb.core.text import normalise
from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Table
from jemb.prepare.engine.verdicts import write_dropped
from jemb.prepare.stages import mine as module
from jemb.prepare.stages.mine import MineConfig, mine
from jemb.prepare.vectors import hard_negatives, pool, scoring
from tests.helpers.prepare_tools import inputs

WORDS = [f"{a}{b}" for a in ("ba", "ki", "mo", "su") for b in ("lur", "tes", "dov", "an", "er")]
Row = tuple[str, ...]


def word_vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha1(word.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=24)


def encode(texts: Sequence[str]) -> np.ndarray:
    """Sums of random vectors of the words, case apart: no two passages of other words have equal scores."""
    vectors = np.array([sum((word_vector(word) for word in text.lower().split()), np.zeros(24)) for text in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_encoder(name: str) -> Callable[[Sequence[str]], np.ndarray]:
    assert name == "sentence-transformers/all-MiniLM-L6-v2"
    return encode


def make_rows(count: int = 120, seed: int = 0) -> list[Row]:
    """Queries that share words with their positives; some queries and positives occur again, in other case."""
    draw = random.Random(seed)
    rows: list[Row] = []
    for number in range(count):
        words = draw.sample(WORDS, 5)
        query, positive = " ".join(words[:3]), " ".join(words[1:])
        if number % 6 == 5:
            query = rows[-1][0].upper()
        if number % 7 == 6:
            positive = rows[-3][1].title()
        if number % 11 == 10:
            query = rows[-2][1]
        rows.append((query, positive, *(["no " + " ".join(words)] if number % 5 == 0 else [])))
    rows[50] = (rows[50][0], rows[50][1], rows[20][1], rows[30][1])
    return rows


def run(table: Table, job: Job, config: MineConfig, seed: int = 0) -> tuple[Dropped, dict[int, tuple[str, ...]]]:
    """What the stage drops, and the negatives of every live row before the drop."""
    dropped = mine(table, job, config, inputs(seed, make_encoder))
    judged = table.judged(job.folder)
    rows = [judged.read(piece) for piece in range(table.num_pieces)]
    return dropped, {int(row): texts for part in rows for row, texts in zip(part.ids, part.negatives, strict=True)}


def brute_force(rows: list[Row], config: MineConfig) -> list[list[str]]:
    """All that may be drawn for each row, the nearest first."""
    passages: dict[str, str] = {}
    for row in rows:
        passages.setdefault(normalise(row[1]), row[1])
    vectors = encode(list(passages.values())).astype(np.float64)
    result = []
    for query, positive, *negatives in rows:
        answers = {normalise(query), *(normalise(row[1]) for row in rows if normalise(row[0]) == normalise(query))}
        has = set(map(normalise, negatives))
        vector = encode([query])[0].astype(np.float64)
        own = float(encode([positive])[0].astype(np.float64) @ vector)
        ranked = sorted(zip(vectors @ vector, passages, passages.values(), strict=True), key=lambda item: -item[0])
        ranked = [item for item in ranked if item[1] not in answers | has][config.skip : config.skip + config.top]
        limit = 9.0 if config.max_share is None else own - (1 - config.max_share) * abs(own)
        limit = min(limit, 9.0 if config.margin is None else own - config.margin)
        result.append([text for score, _, text in ranked if score <= limit])
    return result


@pytest.mark.parametrize(
    "options",
    [
        {"top": 6, "num_negatives": 6},
        {"top": 6, "num_negatives": 6, "skip": 4, "max_share": 0.8},
        {"top": 10, "num_negatives": 10, "margin": 0.4},
        {"top": 500, "num_negatives": 500, "max_share": None},  # more than there are
    ],
)
def test_with_all_drawn_it_is_the_brute_force(table: Any, job: Any, options: dict[str, Any]) -> None:
    config = MineConfig(**options, without_negatives="drop")
    rows = make_rows()
    dropped, negatives = run(table(rows, piece_rows=50), job(), config)
    expected = [[*row[2:], *mined] for row, mined in zip(rows, brute_force(rows, config), strict=True)]
    assert [list(negatives[row]) for row in range(len(rows))] == expected
    assert dropped.ids.tolist() == [row for row, texts in enumerate(expected) if not texts]
    assert dropped.reason == "no_negative"


def test_draws_some_of_those(table: Any, job: Any) -> None:
    config = MineConfig(top=12, num_negatives=3)
    rows = make_rows()
    dropped, negatives = run(table(rows), job(), config, seed=5)
    choices = nearest = 0
    for row, (texts, may) in enumerate(zip(negatives.values(), brute_force(rows, config), strict=True)):
        assert texts[: len(rows[row]) - 2] == rows[row][2:]
        mined = list(texts[len(rows[row]) - 2 :])
        assert len(mined) == min(3, len(may))
        assert mined == [text for text in may if text in mined]
        if len(may) >= 6:
            choices += 1
            nearest += mined == may[:3]
    # One draw in twenty or fewer is that of the nearest three.
    assert choices > 20
    assert nearest < choices / 5
    statistics = dropped.statistics
    assert sum(statistics["rows"].values()) == len(rows)
    assert sum(int(count) * times for count, times in statistics["rows"].items()) == sum(
        statistics["negative"]["counts"]
    )
    assert sum(statistics["positive"]["counts"]) == len(rows)


def test_nothing_hangs_on_pieces_workers_or_rows_dropped_before(table: Any, job: Any, tmp_path: Path) -> None:
    config = MineConfig(top=12, num_negatives=3)
    rows = make_rows()
    one = run(table(rows), job("one"), config)
    many = run(table(rows, piece_rows=7), job("many"), config)
    assert one[1] == many[1]
    assert one[0].ids.tolist() == many[0].ids.tolist()
    assert one[0].statistics == many[0].statistics
    # Rows whose texts another row has too: their loss changes neither pool nor answers.
    again = table([*rows, *rows], piece_rows=40)
    gone = Dropped(np.arange(120, 240), np.zeros(120, np.int64), "test")
    write_dropped(tmp_path / "gone", again, [gone])
    fewer = run(again.judged(tmp_path / "gone"), job("fewer"), config)
    assert fewer[1] == one[1]


class Everywhere(Job):
    """Runs even small work in other processes."""

    def map(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        return Job.map(self, *arguments, **{**options, "serial_below": 0})


def test_other_processes_find_the_same(table: Any, job: Any, tmp_path: Path) -> None:
    config = MineConfig(top=12, num_negatives=3)
    given = table(make_rows(), piece_rows=60)
    alone = run(given, job("alone"), config)
    (tmp_path / "jobs" / "two").mkdir()
    with LocalExecutor(2) as executor:
        two = run(given, Everywhere(tmp_path / "jobs" / "two", executor, "two"), config)
    assert two[1] == alone[1]
    assert two[0].statistics == alone[0].statistics


def test_a_smaller_pool(table: Any, job: Any) -> None:
    rows = [row[:2] for row in make_rows()]
    config = MineConfig(top=200, num_negatives=200, max_share=None, pool_size=15)
    _, negatives = run(table(rows, piece_rows=50), job("small"), config)
    pool = {text for texts in negatives.values() for text in texts}
    assert 10 <= len(pool) <= 15  # of equal texts one
    everything = brute_force(rows, config)
    folded = set(map(normalise, pool))
    for row, texts in negatives.items():
        assert list(map(normalise, texts)) == [text for text in map(normalise, everything[row]) if text in folded]
    _, other = run(table(rows, piece_rows=9), job("pieces"), config)
    assert other == negatives
    _, drawn = run(table(rows), job("seed"), config, seed=1)
    assert {text for texts in drawn.values() for text in texts} != pool


def test_a_query_with_many_answers_is_searched_deeper(table: Any, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Forty answers to one question, all nearer to it than anything else.
    rows: list[Row] = [("ask", f"ask ask ask ask {WORDS[number % 20]} {number}") for number in range(40)]
    rows += [(f"ask {word}", f"{word} {word} {number}") for number, word in enumerate(WORDS)]
    config = MineConfig(top=4, num_negatives=4, max_share=None)
    monkeypatch.setattr(hard_negatives, "SPARE", 1)
    looked_up: list[int] = []
    top_candidates = scoring.top_candidates

    def counted(queries: np.ndarray, pool: Any, k: int) -> Any:
        looked_up.append(k)
        return top_candidates(queries, pool, k)

    monkeypatch.setattr(scoring, "top_candidates", counted)
    _, negatives = run(table(rows), job("deep"), config)
    assert list(map(list, negatives.values())) == brute_force(rows, config)
    assert looked_up == [5, 20, 80]
    monkeypatch.setattr(hard_negatives, "MOST", 20)
    _, shallow = run(table(rows), job("shallow"), config)
    assert [len(shallow[row]) for row in (0, 39, 40)] == [0, 0, 4]


def test_nothing_to_mine(table: Any, job: Any) -> None:
    rows = [("a b", "c d"), ("A b", "C e"), ("c f", "c  D")]
    dropped, negatives = run(table(rows), job(), MineConfig(max_share=None, without_negatives="drop"))
    # The first two ask the same, and the third's only other passage is the second's positive.
    assert negatives == {0: (), 1: (), 2: ("C e",)}
    assert dropped.ids.tolist() == [0, 1]
    judged = table(rows)
    assert write_dropped(job("write").folder, judged, [dropped])["dropped"] == {"no_negative": 2}
    dropped, same = run(table(rows), job("kept"), MineConfig(max_share=None))
    assert same == negatives
    assert not len(dropped.ids)


def test_no_right_answer_becomes_a_negative(table: Any, job: Any) -> None:
    """The second's positive answers the first's query as well, and so does it for any row with that query."""
    rows = [("a b", "c d"), ("e f", "g h"), ("A  b", "i j")]
    _, plain = run(table(rows), job("plain"), MineConfig(max_share=None))
    assert "g h" in plain[0]
    assert "g h" in plain[2]
    _, negatives = run(table(rows, more={0: ("G h", "k")}), job("more"), MineConfig(max_share=None))
    assert negatives[0] == negatives[2] == ()
    assert negatives[1] == plain[1]


def test_no_rows_at_all(table: Any, job: Any, tmp_path: Path) -> None:
    given = table([("a", "b")])
    write_dropped(tmp_path / "gone", given, [Dropped(np.array([0]), np.array([0]), "test")])
    assert len(mine(given.judged(tmp_path / "gone"), job(), MineConfig(), inputs(0, make_encoder)).ids) == 0


def test_a_piece_without_live_rows(table: Any, job: Any, tmp_path: Path) -> None:
    rows = make_rows(60)
    given = table(rows, piece_rows=20)
    write_dropped(tmp_path / "gone", given, [Dropped(np.arange(20, 40), np.zeros(20, np.int64), "test")])
    config = MineConfig(top=5, num_negatives=5)
    _, negatives = run(given.judged(tmp_path / "gone"), job(), config)
    left = rows[:20] + rows[40:]
    expected = [[*row[2:], *mined] for row, mined in zip(left, brute_force(left, config), strict=True)]
    assert list(map(list, negatives.values())) == expected


def test_texts_survive_as_they_are(table: Any, job: Any) -> None:
    rows = [("one", "Zwei  Wörter 漢字"), ("two", "a\tb\nc"), ("three", "🙂 smile")]
    _, negatives = run(table(rows), job(), MineConfig(max_share=None))
    assert {text for texts in negatives.values() for text in texts} == {row[1] for row in rows}


def test_a_killed_run_goes_on(table: Any, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, config = make_rows(), MineConfig(top=12, num_negatives=3)
    whole = run(table(rows, piece_rows=30), job("whole"), config)
    broken, given = job("broken"), table(rows, piece_rows=30)
    steps = ((pool, "_hash_piece"), (pool, "pair_keys"), (pool, "draw"), (module, "_mine_piece"))
    for where, function in (*steps, (module, "add_up")):
        with monkeypatch.context() as patch:
            patch.setattr(where, function, raising)
            with pytest.raises(KeyboardInterrupt):
                mine(given, broken, config, inputs(0, make_encoder))
    again = run(given, broken, config)
    assert again[1] == whole[1]
    assert again[0].ids.tolist() == whole[0].ids.tolist()


def raising(*arguments: Any) -> Any:
    raise KeyboardInterrupt
