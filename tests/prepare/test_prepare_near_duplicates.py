"""Near duplicates against the truth by brute force, datasketch's own index, and cases worked out by hand."""

from __future__ import annotations

import dataclasses
import itertools
import random
import string
import time

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.config import NearDuplicatesConfig
from jemb.prepare.near_duplicates import (
    band_rows,
    buckets,
    fold,
    jaccard,
    keep_representatives,
    shingles,
    signatures,
    similarity,
)
from jemb.records import Sample

CONFIG = NearDuplicatesConfig()


def planted(count: int = 300, seed: int = 0) -> list[Sample]:
    """Texts of random words, a third of them copies of an earlier one with one or several words changed."""
    chosen = random.Random(seed)
    words = ["".join(chosen.choices(string.ascii_lowercase, k=chosen.randint(2, 9))) for _ in range(400)]
    texts: list[list[str]] = []
    for _ in range(count):
        if texts and chosen.random() < 0.35:
            text = list(chosen.choice(texts))
            for _ in range(chosen.choice([1, 1, 2, 4, 8])):
                text[chosen.randrange(len(text))] = chosen.choice(words)
        else:
            text = chosen.choices(words, k=chosen.randint(8, 40))
        texts.append(text)
    return [Sample(f"{n:09d}", " ".join(text[:4]), " ".join(text[4:])) for n, text in enumerate(texts)]


def brute_force(rows: list[Sample], config: NearDuplicatesConfig) -> set[str]:
    """Keys that stay: the lowest of each group connected by pairs at or above the threshold, over all pairs."""
    sets = [shingles(fold(row, config.side), config) for row in rows]
    names = list(range(len(rows)))
    for a, b in itertools.combinations(range(len(rows)), 2):
        if all(jaccard(one, other) >= config.threshold for one, other in zip(sets[a], sets[b], strict=True)):
            names = [min(names[a], names[b]) if name in (names[a], names[b]) else name for name in names]
    return {rows[name].key for name in set(names)}


def test_jaccard_and_shingles_by_hand():
    assert shingles("abcdef", CONFIG) == [{"abcde", "bcdef"}]
    assert shingles("abc\0x", CONFIG) == [{"abc"}, {"x"}]
    assert similarity(shingles("abcdef", CONFIG), shingles("abcdeg", CONFIG)) == pytest.approx(1 / 3)
    assert similarity(shingles("abcdef\0same", CONFIG), shingles("abcdeg\0same", CONFIG)) == pytest.approx(1 / 3)
    assert similarity(shingles("same\0same", CONFIG), shingles("same", CONFIG)) == 0
    words = NearDuplicatesConfig(shingle="word", ngram=2)
    assert shingles("a bb c", words) == [{"a bb", "bb c"}]
    assert shingles("a", words) == [{"a"}]


def test_fold_by_hand(rows):
    (pair, triplet) = rows(("It's  A_b, no?", "Ja — 3.5 €!"), ("q", "p", "n!", "m"))
    assert fold(pair, "both") == "it s a_b no\0ja 3 5"
    assert fold(pair, "joined") == "it s a_b no ja 3 5"
    assert fold(pair, "positive") == "ja 3 5"
    assert fold(triplet, "both") == "q\0p\0n m"
    assert fold(triplet, "joined") == "q p\0n m"
    assert fold(rows(("?", "!!"))[0], "both") == "?\0!!"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "config",
    [CONFIG, NearDuplicatesConfig(shingle="word", ngram=2, threshold=0.6), NearDuplicatesConfig(side="positive")],
)
def test_planted_near_duplicates_match_brute_force(seed, config):
    rows = planted(seed=seed)
    outcome = keep_representatives(rows, config, seed)
    kept = {row.key for row in outcome.kept}
    truth = brute_force(rows, config)
    assert 10 < len(rows) - len(truth) < 200
    # What goes is always right. MinHash may miss a pair just above the threshold (6 % at it, 0.1 % at 0.1 above).
    assert truth <= kept
    assert len(kept - truth) <= 4
    assert kept <= brute_force(rows, dataclasses.replace(config, threshold=config.threshold + 0.1))


def test_result_is_the_same_for_any_order_and_any_seed_of_the_shuffle():
    rows = planted()
    expected = keep_representatives(rows, CONFIG, 0)
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert keep_representatives(rows, CONFIG, 0) == expected


def test_a_chain_keeps_its_lowest_key():
    # Each text shares 90 % with the next; the ends of the chain share little.
    words = [f"word{number:03d}" for number in range(60)]
    chain = [" ".join(words[start : start + 40]) for start in range(0, 20, 2)]
    config = NearDuplicatesConfig(num_perm=512)
    rows = [Sample(f"{9 - n}", text, "x") for n, text in enumerate(chain)]
    sets = [shingles(fold(row, "both"), config) for row in rows]
    assert jaccard(sets[0][0], sets[1][0]) > 0.8 > 0.5 > jaccard(sets[0][0], sets[-1][0])
    outcome = keep_representatives(rows, config, 0)
    assert [row.key for row in outcome.kept] == ["0"]
    assert {drop.note for drop in outcome.dropped} == {"of 0"}


def test_a_new_question_to_a_long_known_answer_is_no_duplicate(rows):
    answer = " ".join(f"word{number}" for number in range(60))
    asked = rows(
        ("how long is the coast", answer), ("who drew the first map", answer), ("how long is the coast?", answer)
    )
    assert [row.key for row in keep_representatives(asked, CONFIG, 0).kept] == ["000000000", "000000001"]
    joined = dataclasses.replace(CONFIG, side="joined")
    assert [row.key for row in keep_representatives(asked, joined, 0).kept] == ["000000000"]


def test_triplets_with_swapped_roles_are_not_near_duplicates(rows):
    texts = ("a man is riding his red motorcycle", "a person rides along the road", "nobody rides along the road")
    query, positive, negative = texts
    swapped = rows(texts, (query, negative, positive), (query, positive + "s", negative))
    assert [row.key for row in keep_representatives(swapped, CONFIG, 0).kept] == ["000000000", "000000001"]


def test_candidates_are_those_of_datasketch():
    rows = planted(200)
    folded = list(dict.fromkeys(fold(row, "both") for row in rows))
    signed = signatures(folded, CONFIG, seed=3)
    ours = {pair for bucket in buckets(signed, 8) for pair in itertools.combinations(bucket.tolist(), 2)}
    lsh = MinHashLSH(num_perm=128, params=(16, 8))
    hashes = []
    for number, row in enumerate(signed):
        # Any object with these values would do; built so, it carries datasketch's own checks.
        one = MinHash(num_perm=128, seed=1)
        one.hashvalues = row
        hashes.append(one)
        lsh.insert(number, one)
    theirs = {
        (number, other)
        for number, one in enumerate(hashes)
        for other in lsh.query(one)
        if isinstance(other, int) and number < other
    }
    assert ours == theirs
    assert len(ours) > 20


def test_bands_by_hand():
    # (1 - 0.8^8)^16 = 0.053, (1 - 0.8^9)^14 = 0.132; (1 - 0.5^3)^42 = 0.004, (1 - 0.5^4)^32 = 0.127.
    assert band_rows(0.8, 128) == 8
    assert band_rows(0.5, 128) == 3
    assert band_rows(1.0, 128) == 128
    assert band_rows(0.01, 16) == 1


def test_signatures_estimate_jaccard():
    rows = planted(40)
    config = NearDuplicatesConfig(num_perm=1024)
    folded = [fold(row, "joined") for row in rows]
    signed = signatures(folded, config, seed=0)
    errors = [
        np.mean(signed[a] == signed[b]) - similarity(shingles(folded[a], config), shingles(folded[b], config))
        for a, b in itertools.combinations(range(len(rows)), 2)
    ]
    # One standard error is at most 0.5 / sqrt(1024) = 0.0156.
    assert max(map(abs, errors)) < 5 * 0.0156


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(alphabet="ab?\0 ", max_size=12), max_size=12))
def test_any_texts_are_kept_or_dropped_and_equal_words_are_one(texts):
    rows = [Sample(f"{number:09d}", text, "") for number, text in enumerate(texts)]
    outcome = keep_representatives(rows, CONFIG, 0)
    keys = [row.key for row in outcome.kept] + [drop.sample.key for drop in outcome.dropped]
    assert sorted(keys) == [row.key for row in rows]
    kept = [fold(row, "both") for row in outcome.kept]
    assert len(set(kept)) == len(kept)
    assert set(kept) <= {fold(row, "both") for row in rows}


def test_many_copies_cost_linear_time():
    # 3,000 texts that differ in one of 40 words: all pairs would be 4.5 million checks.
    words = [f"word{number}" for number in range(40)]
    rows = [Sample(f"{n:09d}", " ".join([*words, f"end{n}"]), "p") for n in range(3000)]
    start = time.process_time()
    assert len(keep_representatives(rows, CONFIG, 0).kept) == 1
    assert time.process_time() - start < 20
