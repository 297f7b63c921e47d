"""Folding, signatures and sets by kernels against Python's regex, datasketch with xxhash, and Python sets."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import xxhash
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.prepare.near.check import check_buckets, similarities
from jemb.prepare.near.folding import Packed, fold, fold_rows, fold_text, pack
from jemb.prepare.near.minhash import band_keys, digests, shingle_sets, signatures
from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig

CHAR = NearDuplicatesConfig()
WORD = NearDuplicatesConfig(shingle="word", ngram=3)
# Letters of one to four bytes, some whose lower case is longer, shorter, several letters or decided by the neighbours.
ALPHABET = "aZ_9 .\0\n\t-éÉßσΣςİıKȺẞДж中文、ท่हि𠮷𝔸😀ⓐⒶ\u00a0\u0300"
texts_of = st.lists(st.one_of(st.text(ALPHABET, max_size=40), st.text(max_size=20)), max_size=20)
folded_of = st.lists(st.text("ab é中\0", max_size=60), max_size=12)


def listed(packed: Packed) -> list[str]:
    return [packed[row] for row in range(len(packed))]


def runs(part: str, config: NearDuplicatesConfig) -> set[str]:
    """The shingles of one part, by Python."""
    n = config.ngram
    if config.shingle == "char":
        return {part[start : start + n] for start in range(max(1, len(part) - n + 1))}
    words = part.split(" ")
    return {" ".join(words[start : start + n]) for start in range(max(1, len(words) - n + 1))}


def jaccard(one: str, other: str, config: NearDuplicatesConfig) -> float:
    """Of the least similar part of two folded rows."""
    parts = one.split("\0"), other.split("\0")
    if len(parts[0]) != len(parts[1]):
        return 0.0
    sets = [(runs(a, config), runs(b, config)) for a, b in zip(*parts, strict=True)]
    return min(len(a & b) / len(a | b) for a, b in sets)


@settings(max_examples=200)
@given(texts_of, st.booleans())
def test_folding_is_that_of_the_regex(texts, apart):
    assert listed(fold(pack(texts), apart)) == [fold_text(text, apart) for text in texts]


@pytest.mark.parametrize("apart", [False, True])
def test_folding_is_that_of_the_regex_for_every_letter(apart):
    codes = [*range(1 << 16), *range(1 << 16, sys.maxunicode + 1, 11)]
    letters = [chr(code) for code in codes if unicodedata.category(chr(code)) != "Cs"]
    texts = [f"{letter}a {letter}-Z{letter}" for letter in letters]
    assert listed(fold(pack(texts), apart)) == [fold_text(text, apart) for text in texts]


def test_folding_by_hand():
    assert fold_text("It's  A_b, no?") == "it s a_b no"
    assert fold_text(" — ?\0 !") == "— ? !"
    query, positive, negatives = ["It's  A_b, no?", "q", "?"], ["Ja — 3.5 €!", "p", "!!"], [(), ("n!", "m"), ()]
    assert listed(fold_rows(query, positive, negatives, "both")) == ["it s a_b no\0ja 3 5", "q\0p\0n m", "?\0!!"]
    assert listed(fold_rows(query, positive, negatives, "joined")) == ["it s a_b no ja 3 5", "q p\0n m", "? !!"]
    assert listed(fold_rows(query, positive, negatives, "positive")) == ["ja 3 5", "p", "!!"]
    assert listed(fold_rows(query, positive, [(), (), ()], "joined")) == ["it s a_b no ja 3 5", "q p", "? !!"]


@settings(max_examples=100)
@given(folded_of, st.sampled_from(["char", "word"]), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_signatures_are_those_of_datasketch(texts, shingle, ngram, seed):
    config = NearDuplicatesConfig(shingle=shingle, ngram=ngram, num_perm=16)
    signed = signatures(pack(texts), config, seed)
    assert (signed.shape, signed.dtype) == ((len(texts), 16), np.uint32)
    for text, row in zip(texts, signed, strict=True):
        parts = text.split("\0")
        marked = [("\0" * number + run).encode() for number, part in enumerate(parts) for run in runs(part, config)]
        theirs = MinHash(num_perm=16, seed=seed, hashfunc=lambda data: xxhash.xxh32(data).intdigest())
        theirs.update_batch(marked)
        assert row.tolist() == theirs.hashvalues.tolist()


def test_long_shingles_hash_like_xxhash():
    # One shingle a text: lengths around the blocks of 16 bytes and words of 4 that xxHash works in.
    config = NearDuplicatesConfig(ngram=10_000, num_perm=16)
    texts = ["x" * 7 + "yz" * half + "q" * odd for half in range(60) for odd in (0, 1)]
    signed = signatures(pack(texts), config, 0)
    for text, row in zip(texts, signed, strict=True):
        theirs = MinHash(num_perm=16, seed=0, hashfunc=lambda data: xxhash.xxh32(data).intdigest())
        theirs.update(text.encode())
        assert row.tolist() == theirs.hashvalues.tolist()


@settings(max_examples=100)
@given(folded_of, st.sampled_from([CHAR, WORD, NearDuplicatesConfig(ngram=1), NearDuplicatesConfig(threshold=0.3)]))
def test_sets_and_similarities_are_those_of_python(texts, config):
    sets = shingle_sets(pack(texts), config)
    sizes = [len(runs(part, config)) for text in texts for part in text.split("\0")]
    assert np.diff(sets.parts).tolist() == sizes
    assert np.diff(sets.rows).tolist() == [text.count("\0") + 1 for text in texts]
    for start, stop in itertools.pairwise(sets.parts):
        assert (np.diff(sets.values[start:stop].astype(object)) > 0).all()
    pairs = np.array(list(itertools.product(range(len(texts)), repeat=2)), np.int64).reshape(-1, 2)
    expected = [jaccard(texts[one], texts[other], config) for one, other in pairs]
    found = similarities(sets, sets, pairs, config.threshold)
    assert found.tolist() == [score if score >= config.threshold else 0.0 for score in expected]


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "changed"), [(0.5, (3, 10)), (0.8, (1, 5)), (1.0, (0, 2))])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_big_bucket_is_connected_as_by_comparing_all_pairs(threshold, changed, parts):
    # 200 rows of one template: most pairs are a little below or above the threshold.
    chosen = random.Random(f"{threshold}{parts}")
    words = ["".join(chosen.choices("abcdefgh", k=6)) for _ in range(300)]
    texts = []
    for _ in range(200):
        row = list(words[:24])
        for place in chosen.sample(range(24), chosen.randint(*changed)):
            row[place] = chosen.choice(words[24:])
        texts.append(" ".join(row[: chosen.choice([22, 24])]) + ("\0" + chosen.choice(words[:2])) * (parts - 1))
    config = NearDuplicatesConfig(threshold=threshold)
    names = list(range(len(texts)))
    for one, other in itertools.combinations(range(len(texts)), 2):
        if names[one] != names[other] and jaccard(texts[one], texts[other], config) >= threshold:
            low, high = sorted((names[one], names[other]))
            names = [low if name == high else name for name in names]
    assert 5 < len(set(names)) < 195
    sets = shingle_sets(pack(texts), config)
    edges, scores, compared = check_buckets(sets, np.array([0, 200]), np.arange(200), threshold)
    found = list(range(200))
    for (one, other), score in zip(edges.tolist(), scores, strict=True):
        assert score == pytest.approx(jaccard(texts[one], texts[other], config), abs=1e-12)
        low, high = sorted((found[one], found[other]))
        assert low != high
        found = [low if name == high else name for name in found]
    assert found == names
    assert compared < 200 * 199 / 2
    # What is connected already is not looked at again.
    assert check_buckets(sets, np.array([0, 200]), np.array(names), threshold)[0].tolist() == []


def test_band_keys_and_digests():
    texts = ["one text of words", "one text of words", "another text", ""]
    signed = signatures(pack(texts), CHAR, 0)
    keys = band_keys(signed, 8)
    assert keys.shape == (16, 4)
    assert (keys[:, 0] == keys[:, 1]).all()
    assert len(np.unique(keys)) == 3 * 16
    # Only the band that differs changes, and equal hashes in two bands are different keys.
    other = signed[:1].copy()
    other[0, 20] += 1
    assert np.flatnonzero(band_keys(other, 8)[:, 0] != keys[:, 0]).tolist() == [2]
    assert len(np.unique(band_keys(np.full((1, 128), 7, np.uint32), 8))) == 16
    high, low = digests(pack([*texts, "one text of wordS"]))
    assert len(set(zip(high.tolist(), low.tolist(), strict=True))) == 4
    assert len({*high.tolist(), *low.tolist()}) == 8


def test_kernels_run_where_nothing_can_be_cached():
    script = (
        "from numba.core.caching import CacheImpl, FunctionCache\n"
        "FunctionCache._impl_class._locator_classes = []\n"
        "from jemb.prepare.near.folding import fold, pack\n"
        "print(fold(pack(['A, b']))[0])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "a b\n"
