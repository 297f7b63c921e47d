"""Near duplicates against the truth by brute force, datasketch's own index, and cases worked out by hand."""

from __future__ import annotations

import argparse
import dataclasses
import decimal
import inspect
import itertools
import logging
import math
import pathlib
import random
import string
import unittest
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.prepare import equal
from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.equal import groups
from jemb.prepare.near import candidates, join
from jemb.prepare.near import index as near_index
from jemb.prepare.near.candidates import band_rows, connect, keys_of
from jemb.prepare.near.folding import fold, fold_rows, fold_text, pack
from jemb.prepare.near.index import Index
from jemb.prepare.near.join import find_near_duplicates
from jemb.prepare.near.minhash import band_keys, signatures
from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

CONFIG = NearDuplicatesConfig()
WORDS = NearDuplicatesConfig(shingle="word", ngram=2, threshold=0.6)

Row = tuple[str, ...]


def planted(count: int = 300, seed: int = 0) -> list[Row]:
    """Texts of random words, a third of them copies of an earlier one with one or several words changed."""
    chosen = random.Random(seed)
    words = ["".join(chosen.choices(string.ascii_lowercase, k=chosen.randint(2, 9))) for _ in range(400)]
    texts: list[list[str]] = []
    for _ in range(count):
        if texts and chosen.random() < 0.35:
            text = list(chosen.choice(texts))
            for _ in range(chosen.choice([0, 1, 1, 2, 4, 8])):
                text[chosen.randrange(len(text))] = chosen.choice(words)
        else:
            text = chosen.choices(words, k=chosen.randint(8, 40))
        texts.append(text)
    return [(" ".join(text[:4]), " ".join(text[4:])) for text in texts]


def shingles(text: str, config: NearDuplicatesConfig) -> list[set[str]]:
    """For each part of a folded row all runs of `ngram` characters or words, by Python."""
    n = config.ngram
    parts = []
    for part in text.split("\0"):
        units: Sequence[str] = part if config.shingle == "char" else part.split()
        gap = "" if config.shingle == "char" else " "
        parts.append({gap.join(units[start : start + n]) for start in range(max(1, len(units) - n + 1))})
    return parts


def similarity(one: list[set[str]], other: list[set[str]]) -> float:
    if len(one) != len(other):
        return 0.0
    return min(len(a & b) / len(a | b) for a, b in zip(one, other, strict=True))


def folded_by_hand(row: Row, side: str) -> str:
    if side in ("query", "positive"):
        return fold_text(row[side == "positive"])
    parts = [row[0], row[1]] if side == "both" else [f"{row[0]} {row[1]}"]
    return "\0".join(map(fold_text, parts + ([" ".join(row[2:])] if row[2:] else [])))


def brute_force(rows: Sequence[Row], config: NearDuplicatesConfig) -> list[int]:
    """For each row the lowest of its group, over all pairs."""
    sets = [shingles(folded_by_hand(row, config.side), config) for row in rows]
    names = list(range(len(rows)))
    for one, other in itertools.combinations(range(len(rows)), 2):
        if names[one] != names[other] and similarity(sets[one], sets[other]) >= config.threshold:
            low, high = sorted((names[one], names[other]))
            names = [low if name == high else name for name in names]
    return names


@pytest.fixture
def run(table, job):
    """run(rows, config): for each row the id of the one that stays, by the stage; and its statistics."""
    numbers = itertools.count()

    def run(rows: Sequence[Row], config: NearDuplicatesConfig = CONFIG, seed: int = 0, piece_rows: int = 70) -> Any:
        dropped = join.join(table(rows, piece_rows), job(f"near-{next(numbers)}"), config, seed)
        assert (np.diff(dropped.ids) > 0).all()
        assert (dropped.reason, dropped.note) == ("near_duplicate", "of {key}")
        names = list(range(len(rows)))
        for row, stays in zip(dropped.ids.tolist(), dropped.values.tolist(), strict=True):
            names[row] = stays
        return names, dropped.statistics

    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "config", [CONFIG, WORDS, NearDuplicatesConfig(side="joined"), NearDuplicatesConfig(side="query")]
)
def test_planted_near_duplicates_match_brute_force(run, seed, config):
    rows = planted(seed=seed)
    names, statistics = run(rows, config, seed)
    truth = brute_force(rows, config)
    kept, right = set(names), set(truth)
    assert 10 < len(rows) - len(right) < 200
    # What goes is always right. MinHash may miss a pair just above the threshold (6 % at it, 0.1 % at 0.1 above).
    assert right <= kept
    assert len(kept - right) <= 4
    assert kept <= set(brute_force(rows, dataclasses.replace(config, threshold=config.threshold + 0.1)))
    if kept == right:
        assert names == truth
    assert {names[name] for name in names} == kept
    sizes = [names.count(name) for name in kept]
    clusters = {f"{n}+" if n == 10 else str(n): sum(min(s, 10) == n for s in sizes) for n in range(2, 11)}
    assert statistics["clusters"] == {n: count for n, count in clusters.items() if count}
    words = [folded_by_hand(row, config.side) for row in rows]
    assert statistics["equal"] == len(words) - len(set(words)) > 0
    assert sum(statistics["similarity"]["counts"]) == len(rows) - len(kept) - statistics["equal"]
    assert statistics["compared"] >= sum(statistics["similarity"]["counts"])


@pytest.mark.slow
def test_the_result_depends_on_neither_pieces_nor_ranges_nor_batches(run, monkeypatch):
    rows = [(text, "x") for pair in planted(150, seed=3) for text in pair]
    config = NearDuplicatesConfig(side="query")
    expected, statistics = run(rows, config, 5)
    assert find_near_duplicates([row[0] for row in rows], config, 5).tolist() == expected
    assert run(rows, config, 5, piece_rows=1) == (expected, statistics)
    monkeypatch.setattr(candidates, "BATCH_BYTES", 2000)
    assert run(rows, config, 5)[0] == expected
    monkeypatch.setattr(equal, "RANGE_ROWS", 100)
    assert join.num_ranges(len(rows)) == 3
    assert run(rows, config, 5, piece_rows=33)[0] == expected


@pytest.mark.slow
def test_more_workers_change_nothing(table, tmp_path, monkeypatch):
    rows = table(planted(seed=4), 50)
    found = []
    for workers in (1, 2):
        folder = tmp_path / f"job-{workers}"
        folder.mkdir()
        with LocalExecutor(workers) as executor:
            job = Spawning(folder, executor, "near")
            found.append(join.join(rows, job, CONFIG, 0))
    assert same(*found)


class Spawning(join.Job):
    """Starts processes however few the rows are."""

    def map(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        return super().map(*arguments, **options, serial_below=0)


def same(one: Any, other: Any) -> bool:
    pairs = ((one.ids, other.ids), (one.values, other.values))
    return all(a.tolist() == b.tolist() for a, b in pairs) and one.statistics == other.statistics


@pytest.mark.slow
def test_a_killed_stage_goes_on_where_it_was(table, job, monkeypatch):
    monkeypatch.setattr(equal, "RANGE_ROWS", 100)
    rows, work = table(planted(), 50), job()
    expected = join.join(rows, work, CONFIG, 0)
    markers = sorted(work.folder.glob("*.done"), key=lambda path: path.stat().st_mtime_ns)
    assert len(markers) > 20
    signed = join._sign_piece
    for kept in (0, 3, len(markers) // 2, len(markers) - 1):
        for marker in markers[kept:]:
            marker.unlink()
        calls: list[int] = []
        monkeypatch.setattr(join, "_sign_piece", lambda *a, calls=calls: (calls.append(a[-1]), signed(*a))[1])
        assert same(join.join(rows, work, CONFIG, 0), expected)
        assert len(calls) == max(0, 6 - kept)
        markers = sorted(work.folder.glob("*.done"), key=lambda path: path.stat().st_mtime_ns)


def test_order_of_rows_decides_only_which_one_stays(run):
    rows = planted()
    names, _ = run(rows)
    groups = {frozenset(rows[row] for row in range(len(rows)) if names[row] == name) for name in set(names)}
    random.Random(1).shuffle(rows)
    names, _ = run(rows)
    assert {frozenset(rows[row] for row in range(len(rows)) if names[row] == name) for name in set(names)} == groups


def test_a_chain_keeps_its_lowest_id(run):
    # Each text shares 90 % with the next; the ends of the chain share little.
    words = [f"word{number:03d}" for number in range(60)]
    chain = [" ".join(words[start : start + 40]) for start in range(0, 20, 2)]
    sets = [shingles(text, CONFIG) for text in chain]
    assert similarity(sets[0], sets[1]) > 0.8 > 0.5 > similarity(sets[0], sets[-1])
    rows = [(text, "x") for text in ([*chain[::-1], "something else"])]
    names, statistics = run(rows, NearDuplicatesConfig(num_perm=512))
    assert names == [0] * 10 + [10]
    assert statistics["clusters"] == {"10+": 1}


def test_a_new_question_to_a_long_known_answer_is_no_duplicate(run):
    answer = " ".join(f"word{number}" for number in range(60))
    asked = [("how long is the coast", answer), ("who drew the first map", answer), ("How long, is the coast?", answer)]
    assert run(asked)[0] == [0, 1, 0]
    assert run(asked, NearDuplicatesConfig(side="joined"))[0] == [0, 0, 0]


def test_triplets_with_swapped_roles_are_not_near_duplicates(run):
    query, positive, negative = "a man is riding his red motorcycle", "a person rides the road", "nobody rides the road"
    swapped = [
        (query, positive, negative),
        (query, negative, positive),
        (query, positive + "s", negative),
        (query, positive),
    ]
    assert run(swapped)[0] == [0, 1, 0, 3]
    assert run(swapped, NearDuplicatesConfig(side="query"))[0] == [0, 0, 0, 0]


@pytest.mark.parametrize("rows", [[], [("a", "b")], [("", ""), ("", "")], [("?", "!"), ("?!", "!")]])
def test_small_tables(run, rows):
    for piece_rows in (1, 5):
        assert run(rows, piece_rows=piece_rows)[0] == brute_force(rows, CONFIG)


def test_candidates_are_those_of_datasketch():
    texts = list(dict.fromkeys(folded_by_hand(row, "both") for row in planted(200)))
    signed = signatures(pack(texts), CONFIG, seed=3)
    ours = set()
    for keys in band_keys(signed, 8):
        order, starts = groups(keys)
        for start, stop in itertools.pairwise(starts):
            assert (np.diff(order[start:stop]) > 0).all()
            ours |= set(itertools.combinations(order[start:stop].tolist(), 2))
    lsh = MinHashLSH(num_perm=128, params=(16, 8))
    hashes = []
    for number, row in enumerate(signed):
        # Any object with these values would do; built so, it carries datasketch's own checks.
        one = MinHash(num_perm=128, seed=1)
        one.hashvalues = row
        hashes.append(one)
        lsh.insert(number, one)
    theirs = {(number, other) for number, one in enumerate(hashes) for other in lsh.query(one) if number < other}
    assert ours == theirs
    assert len(ours) > 20


def test_bands_by_hand():
    # (1 - 0.8^8)^16 = 0.053, (1 - 0.8^9)^14 = 0.132; (1 - 0.5^3)^42 = 0.004, (1 - 0.5^4)^32 = 0.127.
    assert band_rows(0.8, 128) == 8
    assert band_rows(0.5, 128) == 3
    assert band_rows(1.0, 128) == 128
    assert band_rows(0.01, 16) == 1


def test_signatures_estimate_jaccard():
    texts = [folded_by_hand(row, "joined") for row in planted(40)]
    signed = signatures(pack(texts), NearDuplicatesConfig(num_perm=1024), seed=0)
    errors = [
        np.mean(signed[a] == signed[b]) - similarity(shingles(texts[a], CONFIG), shingles(texts[b], CONFIG))
        for a, b in itertools.combinations(range(len(texts)), 2)
    ]
    # One standard error is at most 0.5 / sqrt(1024) = 0.0156.
    assert max(map(abs, errors)) < 5 * 0.0156


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="ab?\0 é", max_size=12), max_size=12))
def test_equal_words_are_always_found_and_nothing_else_below_the_threshold(texts):
    names = find_near_duplicates(texts, CONFIG, 0).tolist()
    folded = [fold_text(text) for text in texts]
    for row, name in enumerate(names):
        assert name <= row
        assert names[name] == name
        assert names[folded.index(folded[row])] == name
    assert all(
        name == least
        for name, least in zip(
            names, brute_force([(t, "") for t in texts], NearDuplicatesConfig(side="query")), strict=True
        )
    )


@pytest.mark.slow
def test_recall_and_precision_on_real_words():
    # Sentences of the standard library's documentation, and copies with some words replaced by others of it.
    kinds = (
        argparse.ArgumentParser,
        decimal.Decimal,
        logging.Logger,
        random.Random,
        pathlib.Path,
        str,
        unittest.TestCase,
    )
    text = " ".join(inspect.getdoc(value) or "" for kind in kinds for _, value in sorted(vars(kind).items()))
    words = text.split()
    chosen = random.Random(0)
    texts = []
    for _ in range(1000):
        if texts and chosen.random() < 0.3:
            row = chosen.choice(texts).split()
            for _ in range(chosen.choice([1, 1, 2, 3])):
                row[chosen.randrange(len(row))] = chosen.choice(words)
        else:
            start = chosen.randrange(len(words) - 60)
            row = words[start : start + chosen.randint(15, 60)]
        texts.append(" ".join(row))
    config = NearDuplicatesConfig(side="query", shingle="word")
    sets = [shingles(fold_text(text), config) for text in texts]
    pairs = {
        (one, other): similar
        for one, other in itertools.combinations(range(len(texts)), 2)
        if (similar := similarity(sets[one], sets[other])) >= 0.8
    }
    truth = brute_force([(text,) for text in texts], config)
    found = find_near_duplicates(texts, config, 0).tolist()
    assert len(pairs) > 100
    # 16 bands of 8 rows find a pair of this similarity with this probability; groups join more.
    recall = sum(1 - (1 - similar**8) ** 16 for similar in pairs.values()) / len(pairs)
    noise = math.sqrt(recall * (1 - recall) / len(pairs))
    assert sum(found[one] == found[other] for one, other in pairs) / len(pairs) >= recall - 3 * noise
    assert all(truth[row] == truth[stays] for row, stays in enumerate(found))


def test_many_copies_cost_linear_time(run):
    # 3,000 texts that differ in one of 40 words: all pairs would be 4.5 million checks.
    words = [f"word{number}" for number in range(40)]
    names, statistics = run([(" ".join([*words, f"end{n}"]), "p") for n in range(3000)], piece_rows=1000)
    assert set(names) == {0}
    assert statistics["compared"] < 3 * 3000


def test_a_bucket_that_does_not_fit_is_connected_through_the_overlap_of_its_parts(run, monkeypatch):
    # 500 copies of 300 bytes where 5,000 bytes are compared at once, and as many of another text.
    words = [[f"word{number}", f"item{number * 7}"] for number in range(40)]
    rows = [(" ".join([*(word[n % 2] for word in words), "e" * (n % 7 + 1) + f"{n}"]), "p") for n in range(1000)]
    monkeypatch.setattr(candidates, "BATCH_BYTES", 5000)
    assert run(rows, piece_rows=1000)[0] == [0, 1] * 500


def test_rows_of_one_template_are_hardly_compared():
    # 3,000 texts of which each two share 70 %, and by that 7 bands of 16: all pairs would be 4.5 million checks.
    chosen = random.Random(0)
    words = ["".join(chosen.choices(string.ascii_lowercase, k=6)) for _ in range(60)]
    texts = []
    for _ in range(3000):
        own = ["".join(chosen.choices(string.ascii_lowercase, k=6)) for _ in range(11)]
        texts.append(" ".join(words[:49] + own))
    sets = [shingles(text, CONFIG) for text in texts[:30]]
    assert all(0.68 < similarity(a, b) < 0.72 for a, b in itertools.combinations(sets, 2))
    rows = np.arange(len(texts))
    folded = fold(pack(texts))
    found = [connect(keys, rows, rows, folded, CONFIG) for keys in keys_of(folded, CONFIG, 0)[2:]]
    assert max(looked["candidates"] for _, _, looked in found) > 500
    assert sum(looked["compared"] for _, _, looked in found) < 3000
    assert sum(len(edges) for edges, _, _ in found) == 0


def test_what_signing_leaves_in_files(table, tmp_path):
    texts = [f"text {number} " + "x" * (number * 40) for number in range(40)] + ["", "é b"]
    rows = [*zip(texts, texts[::-1], strict=True)]
    folded = fold_rows(texts, texts[::-1], [()] * 42, "both")
    keys = keys_of(folded, CONFIG, 0)
    starts = np.array([0, 10, 20, 30, 40, 42])
    for piece in range(5):
        join._sign_piece(table(rows, 10), tmp_path, CONFIG, 0, piece)
    spilled = join.Spilled(tmp_path, starts)
    for column in range(18):
        for ranges in (1, 5):
            for part in range(ranges):
                (found,), where = equal.read_range(spilled.key_files, starts, slice(column, column + 1), ranges, part)
                inside = keys[column].astype(float) * ranges // 2.0**64 == part
                assert where.tolist() == np.flatnonzero(inside).tolist()
                assert (found == keys[column, where]).all()
    wanted = np.array([41, 3, 40, 9, 10, 11, 0, 39])
    assert [spilled.take(wanted)[n] for n in range(8)] == [folded[row] for row in wanted.tolist()]
    assert (spilled.lengths(wanted) == folded.lengths(wanted)).all()
    assert len(spilled.take(wanted[:0])) == 0


@pytest.mark.parametrize("config", [CONFIG, WORDS])
def test_index_finds_what_brute_force_finds(config):
    texts = [" ".join(row) for row in planted(400, seed=6)]
    known, new = texts[:150], [*texts[150:], texts[7].upper() + " !", "", "nothing like it at all in here"]
    index = Index(known, shingle=config.shingle, ngram=config.ngram, threshold=config.threshold, seed=1)
    found = index.match(new)
    sets = [shingles(fold_text(text), config) for text in known]
    truth = np.array([[similarity(shingles(fold_text(text), config), one) for one in sets] for text in new])
    first = np.where((truth >= config.threshold).any(1), (truth >= config.threshold).argmax(1), -1)
    assert found[-3:].tolist() == [7, -1, -1]
    assert (first >= 0).sum() > 20
    hit = found >= 0
    assert (truth[hit, found[hit]] >= config.threshold).all()
    assert (found == first).mean() > 0.99
    assert found[truth.max(1) >= config.threshold + 0.1].min() >= 0


def test_index_of_nothing_and_of_nothing_new():
    options: dict[str, Any] = {"shingle": "char", "ngram": 5, "threshold": 0.8, "seed": 0}
    assert Index([], **options).match(["a"]).tolist() == [-1]
    assert Index(["a"], **options).match([]).tolist() == []


@pytest.mark.slow
def test_index_compares_a_bounded_number_of_templates(monkeypatch):
    known = [
        " ".join(["the same words again and again in each of these texts"] * 2 + [f"{n:05d}"]) for n in range(1000)
    ]
    index = Index(known, shingle="char", ngram=5, threshold=0.8, seed=0)
    compared = []
    similarities = near_index.similarities

    def counting(sets, others, pairs, threshold):
        compared.append(len(pairs))
        return similarities(sets, others, pairs, threshold)

    monkeypatch.setattr(near_index, "similarities", counting)
    assert (index.match(known[600:]) >= 0).all()
    assert 400 <= sum(compared) < 400 * 1000, "not each with each"
