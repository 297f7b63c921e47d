"""The demo's data sets from a package tree whose docstrings are known, and a small run on what is installed."""

import hashlib
import json
import textwrap
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from jemb.core.errors import InputError
from jemb.demo import corpus
from jemb.demo.corpus import build_corpus
from jemb.demo.packages import find_modules, fold, parse_docstring, read_module, readable
from jemb.prepare.english import words

NOUNS = [
    "".join(syllables) for syllables in product(("ba", "ki", "mo"), ("lur", "tes", "dov"), ("an", "er", "ol", "im"))
]
BOILERPLATE = (
    "Release what is held.",
    "Calling this twice does no harm, and nothing is read from the object after it.",
)


def source_of(noun: str) -> str:
    """A module with one class of two methods (numpy and boiler-plate) and one function (Google style)."""
    return textwrap.dedent(f'''
        """Tools for the {noun} family."""

        class {noun.title()}Store:
            """Keep every {noun} in a store.

            The store forgets a {noun} when the same {noun} was asked for more than twelve times in a day.
            """

            def scale(self, value, factor=1):
                """Return the scaled {noun} of a value. No {noun} has a unit.

                Each part of the {noun} is multiplied, then the parts that fell below the limit are dropped again.

                Parameters
                ----------
                value : float
                    What the {noun} is taken of.

                Returns
                -------
                float
                    The {noun} after scaling.

                Raises
                ------
                ValueError
                    If the {noun} is negative.
                """

            def close(self):
                """{BOILERPLATE[0]}

                {BOILERPLATE[1]}
                """

        def count_{noun}(path):
            """Count each {noun} in a file.

            The file is read line by line, so that a {noun} which is longer than memory can be counted as well.

            Args:
                path: Where the {noun} is kept.
            """
        ''')


def expected_pairs(noun: str) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """{object: {data set: [(query, positive)]}} for `source_of(noun)`, written by hand."""
    place = f"alpha {noun}"
    keep, scale, count = (
        f"Keep every {noun} in a store.",
        f"Return the scaled {noun} of a value.",
        f"Count each {noun} in a file.",
    )
    parts = f"Each part of the {noun} is multiplied, then the parts that fell below the limit are dropped again."
    forgets = f"The store forgets a {noun} when the same {noun} was asked for more than twelve times in a day."
    lines = f"The file is read line by line, so that a {noun} which is longer than memory can be counted as well."
    return {
        f"alpha.{noun}": {"module_summary": [(place, f"Tools for the {noun} family.")]},
        f"alpha.{noun}.{noun.title()}Store": {
            "name_summary": [(f"{place} store", keep)],  # `moluran moluran store`: the word is said once
            "summary_details": [(keep, forgets)],
        },
        f"alpha.{noun}.{noun.title()}Store.scale": {
            "name_summary": [(f"{place} store scale (value, factor)", scale)],
            "summary_details": [(scale, f"No {noun} has a unit. {parts}")],
            "class_method": [(f"{keep} scale", scale)],
        },
        f"alpha.{noun}.{noun.title()}Store.close": {
            "name_summary": [(f"{place} store close", BOILERPLATE[0])],
            "summary_details": [BOILERPLATE],
            "class_method": [(f"{keep} close", BOILERPLATE[0])],
        },
        f"alpha.{noun}.count_{noun}": {
            "name_summary": [(f"{place} count {noun} (path)", count)],
            "summary_details": [(count, lines)],
        },
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def training_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    files = [*sorted((folder / "raw").iterdir()), *sorted((folder / "raw_triplets").iterdir())]
    return {f"{path.parent.name}/{path.name}": read_rows(path) for path in files}


def texts_of(rows: dict[str, list[dict[str, Any]]]) -> set[str]:
    every = [row for group in rows.values() for row in group]
    return {fold(text) for row in every for text in (row["query"], row["positive"], *row.get("negatives", []))}


def bytes_of(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package `alpha` with a module for each noun; `beta` copies a third of it under other names."""
    root = tmp_path_factory.mktemp("site")
    for package, nouns in (("alpha", NOUNS), ("beta", NOUNS[::3])):
        (root / package).mkdir()
        (root / package / "__init__.py").write_text("")
        for noun in nouns:
            (root / package / f"{noun}.py").write_text(source_of(noun))
    return root


@pytest.fixture(scope="module")
def built(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("built") / "corpus"
    return folder, build_corpus(folder, max_pairs=100_000, seed=0, roots=[site])


def test_pairs_are_those_of_the_objects_that_are_not_held_out(built: tuple[Path, dict[str, int]]) -> None:
    folder, counts = built
    held_out = {row["_id"].split(".", 1)[1] for row in read_rows(folder / "retrieval" / "corpus.jsonl")}
    assert len(held_out) >= 5
    open_objects = {
        name: pairs
        for noun in NOUNS
        for name, pairs in expected_pairs(noun).items()
        if name.removeprefix("alpha.") not in held_out
    }
    # A method is paired with its class only where neither is held out.
    wanted: dict[str, list[tuple[str, str]]] = {name: [] for name in corpus.PAIR_SETS}
    for name, pairs in open_objects.items():
        for dataset, rows in pairs.items():
            if dataset != "class_method" or name.rpartition(".")[0] in open_objects:
                wanted[dataset] += rows
    rows = training_rows(folder)
    for dataset, pairs in wanted.items():
        # `beta` says the same with another first word in names; it is compared by the test of copies below.
        file = f"raw/{dataset}.jsonl"
        seen = [(row["query"], row["positive"]) for row in rows[file]]
        assert {pair for pair in seen if not pair[0].startswith("beta ")} == set(pairs), dataset
        assert len(seen) == counts[file]
    assert all(len(pairs) >= 10 for pairs in wanted.values())


def test_held_out_texts_are_in_no_training_row(built: tuple[Path, dict[str, int]]) -> None:
    folder, counts = built
    held_out = {row["_id"]: row["text"] for row in read_rows(folder / "retrieval" / "corpus.jsonl")}
    assert len(held_out) == counts["retrieval/corpus.jsonl"]
    secret = set(map(fold, held_out.values()))
    secret |= {fold(row["text"]) for row in read_rows(folder / "retrieval" / "queries.jsonl")}
    secret |= {fold(row["entailment"]) for row in read_rows(folder / "negation.jsonl")}
    assert texts_of(training_rows(folder)).isdisjoint(secret)
    # The rule has work to do: some held-out text is also the text of another object, which is then left out.
    copied = [name for name in held_out if name.split(".")[1] in NOUNS[::3]]
    assert copied
    assert {name.rpartition(".")[2].partition("_")[0] for name in held_out} >= {"scale", "count"}
    assert len(held_out) < len(NOUNS) * 1.25


def test_boilerplate_keeps_its_copies_and_is_never_held_out(built: tuple[Path, dict[str, int]]) -> None:
    folder, _ = built
    details = Counter(row["query"] for row in training_rows(folder)["raw/summary_details.jsonl"])
    assert details[BOILERPLATE[0]] > len(NOUNS) / 2
    assert not [row for row in read_rows(folder / "retrieval" / "corpus.jsonl") if row["_id"].endswith(".close")]


def test_retrieval_folder_is_beir(built: tuple[Path, dict[str, int]]) -> None:
    folder, counts = built
    documents = {row["_id"]: row for row in read_rows(folder / "retrieval" / "corpus.jsonl")}
    queries = {row["_id"]: row for row in read_rows(folder / "retrieval" / "queries.jsonl")}
    header, *lines = (folder / "retrieval" / "qrels" / "test.tsv").read_text().splitlines()
    judged = [line.split("\t") for line in lines]
    assert header == "query-id\tcorpus-id\tscore"
    assert (len(documents), len(queries)) == (counts["retrieval/corpus.jsonl"], counts["retrieval/queries.jsonl"])
    assert Counter(query for query, _, _ in judged) == Counter(list(queries))
    assert {document for _, document, _ in judged} <= set(documents)
    assert {score for _, _, score in judged} == {"1"}
    for query, document, _ in judged:
        noun = document.split(".")[1]
        summaries = {
            pairs["summary_details"][0] for pairs in expected_pairs(noun).values() if "summary_details" in pairs
        }
        assert (queries[query]["text"], documents[document]["text"]) in summaries


def test_sibling_negatives_are_details_of_the_same_class_or_module(built: tuple[Path, dict[str, int]]) -> None:
    folder, _ = built
    rows = training_rows(folder)["raw_triplets/siblings.jsonl"]
    details = {}
    for noun in NOUNS:
        for name, pairs in expected_pairs(noun).items():
            for _, text in pairs.get("summary_details", []):
                details.setdefault(text, set()).add(name.rpartition(".")[0])
    assert len(rows) > len(NOUNS) / 2
    for row in rows:
        assert row["negatives"]
        for negative in row["negatives"]:
            assert negative != row["positive"]
            assert details[negative] & details[row["positive"]]


def test_counting_words_cannot_solve_the_negation_task(built: tuple[Path, dict[str, int]]) -> None:
    folder, counts = built
    rows = read_rows(folder / "negation.jsonl")
    assert len(rows) == counts["negation.jsonl"] > 0
    assert_hard(rows)


def assert_hard(rows: list[dict[str, str]]) -> None:
    """The negation has more words in common with the entailment than the anchor has (Jaccard of multisets)."""
    for row in rows:
        anchor, entailment, negative = (Counter(words(row[name])) for name in ("anchor", "entailment", "negative"))
        same = (anchor & entailment).total() / (anchor | entailment).total()
        wrong = (negative & entailment).total() / (negative | entailment).total()
        assert 0 < same < wrong < 1, row


def test_same_seed_same_bytes_other_seed_other_split(
    site: Path, built: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    folder, counts = built
    assert build_corpus(tmp_path / "again", max_pairs=100_000, seed=0, roots=[site]) == counts
    assert bytes_of(tmp_path / "again") == bytes_of(folder)
    build_corpus(tmp_path / "other", max_pairs=100_000, seed=1, roots=[site])
    first, second = (
        {row["_id"] for row in read_rows(path / "retrieval" / "corpus.jsonl")} for path in (folder, tmp_path / "other")
    )
    assert len(first & second) < len(first) / 2


def test_max_pairs_is_kept_and_spread(site: Path, tmp_path: Path) -> None:
    counts = build_corpus(tmp_path / "small", max_pairs=60, seed=0, roots=[site])
    pairs = [number for file, number in counts.items() if file.startswith("raw/")]
    assert len(pairs) == 4
    assert min(pairs) >= 2
    assert 40 <= sum(pairs) <= 60
    assert max(number for file, number in counts.items() if file.startswith("raw_triplets/")) <= 12


def test_too_little_says_so_and_leaves_the_old_folder(site: Path, tmp_path: Path) -> None:
    old = tmp_path / "corpus"
    old.mkdir()
    (old / "mine").write_text("kept")
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "one.py").write_text('"""A module without anything."""\n')
    with pytest.raises(InputError, match=r"1 found in 1 files.*summary_details.*max_pairs \(now 1000\)"):
        build_corpus(old, max_pairs=1000, seed=0, roots=[lone])
    assert [path.name for path in old.iterdir()] == ["mine"]


def test_a_failure_while_writing_leaves_nothing(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corpus._write_rows

    def fail(path: Path, rows: list[dict[str, Any]]) -> None:
        if path.name == "queries.jsonl":
            raise OSError("disk full")
        whole(path, rows)

    monkeypatch.setattr(corpus, "_write_rows", fail)
    with pytest.raises(OSError, match="disk full"):
        build_corpus(tmp_path / "out" / "corpus", max_pairs=1000, seed=0, roots=[site])
    assert list((tmp_path / "out").iterdir()) == []


def test_sources_are_read_never_run(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text('"""Broken."""\ndef (:\n')
    (tmp_path / "evil.py").write_text(f'"""Looks fine."""\nopen({str(tmp_path / "ran")!r}, "w")\nraise SystemExit\n')
    (tmp_path / "half.py").write_text('"""Half a pair: \\ud800."""\n')
    (tmp_path / "fast.so").write_bytes(b"\x7fELF")
    for folder in ("pkg/tests", "pkg-1.0.dist-info", "pkg/sub"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "inside.py").write_text('"""Inside."""\n')
    modules = find_modules([tmp_path, tmp_path], 1_000_000)
    assert [name for name, _ in modules] == ["bad", "evil", "half", "pkg.sub.inside"]
    found = [item for module in modules for item in read_module(module)]
    assert [(item.name, item.summary) for item in found] == [
        ("evil", "Looks fine."),
        ("half", "Half a pair: ?."),
        ("pkg.sub.inside", "Inside."),
    ]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sklearn.linear_model._ridge.RidgeCV", "sklearn linear model ridge cv"),
        ("json.decoder.JSONDecoder.raw_decode", "json decoder jsondecoder raw decode"),
        ("numpy.linalg.norm", "numpy linalg norm"),
    ],
)
def test_readable(name: str, text: str) -> None:
    assert readable(name) == text


NUMPY = """Compute the norm, e.g. the length. Works on :func:`~numpy.norm`.

Larger ``arrays`` are cut.

Parameters
----------
x, y : array_like
    Input.
"""
GOOGLE = """Load a model
from a file.

Note that it may be large: see below.

Args:
    path (str): Where the [`Model`] is.
"""
SPHINX = """Send it.

:param str path: Where to.
"""


@pytest.mark.parametrize(
    ("text", "summary", "details"),
    [
        (NUMPY, "Compute the norm, e.g. the length.", "Works on numpy.norm. Larger arrays are cut."),
        (GOOGLE, "Load a model from a file.", "Note that it may be large: see below."),
        (SPHINX, "Send it.", ""),
        ("", "", ""),
    ],
)
def test_the_prose_before_the_first_section(text: str, summary: str, details: str) -> None:
    assert parse_docstring(text) == (summary, details)


@pytest.mark.slow
def test_what_is_installed_gives_every_data_set(tmp_path: Path) -> None:
    counts = build_corpus(tmp_path / "corpus", max_pairs=300, seed=0)
    assert counts["retrieval/queries.jsonl"] >= 20
    assert counts["negation.jsonl"] >= 20
    rows = training_rows(tmp_path / "corpus")
    assert {name: len(group) for name, group in rows.items()}.items() <= counts.items()
    assert 200 <= sum(number for file, number in counts.items() if file.startswith("raw/")) <= 300
    held_out = read_rows(tmp_path / "corpus" / "negation.jsonl")
    assert_hard(held_out)
    assert texts_of(rows).isdisjoint(fold(row["entailment"]) for row in held_out)
    documents = read_rows(tmp_path / "corpus" / "retrieval" / "corpus.jsonl")
    assert texts_of(rows).isdisjoint(fold(row["text"]) for row in documents)
