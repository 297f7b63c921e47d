"""The negator against a hand-written table, and its properties on sentences of the standard library."""

import json
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from jemb.demo.corpus import read_module
from jemb.demo.negate import negate, reword, words

# Sentence -> every right negation by the rules (a hash of the sentence chooses one).
TABLE = {
    "Return the sum of array elements over a given axis.": {
        "Do not return the sum of array elements over a given axis."
    },
    "Returns the sum.": {"Does not return the sum."},
    "Tries again.": {"Does not try again."},
    "Fetches rows from the table.": {"Does not fetch rows from the table."},
    "Recursively walk the directory tree.": {"Do not recursively walk the directory tree."},
    "Set the label of the axis.": {"Do not set the label of the axis."},
    "Test whether the graph has a cycle.": {"Do not test whether the graph has a cycle."},
    "The value is finite.": {"The value is not finite."},
    "Values are copied.": {"Values are not copied."},
    "The name was given by the caller.": {"The name was not given by the caller."},
    "It can hold text.": {"It cannot hold text."},
    "The handler could fail.": {"The handler could not fail."},
    "This will change the tree.": {"This will not change the tree."},
    "Callers should wait.": {"Callers should not wait."},
    "Keys must be unique.": {"Keys must not be unique."},
    "The lock may be held.": {"The lock may not be held."},
    "The graph has been drawn.": {"The graph has not been drawn."},
    "Whether it's a method.": {"Whether it's not a method."},
    "This function returns a list.": {"This function does not return a list."},
    "A class that holds nodes.": {"A class that does not hold nodes."},
    "An object which has a name.": {"An object which does not have a name."},
    "It silently drops nodes.": {"It does not silently drop nodes."},
    "Does not raise an error if the file is missing.": {"Raises an error if the file is missing."},
    "Do not return a copy.": {"Return a copy."},
    "Doesn't try again.": {"Tries again."},
    "Don't copy the array.": {"Copy the array."},
    "The object isn't picklable.": {"The object is picklable."},
    "The name cannot be parsed.": {"The name can be parsed."},
    "This can't happen here.": {"This can happen here."},
    "The call won't block.": {"The call will block."},
    "Nodes that have not been seen.": {"Nodes that have been seen."},
    "An error for names not in the table.": {"An error for names in the table."},
    "Never called directly.": {"Always called directly."},
    "ALWAYS on.": {"NEVER on."},
    "Base class for all estimators.": {None},
    "Names of all nodes.": {"Names of no nodes."},
    "Names of all the nodes.": {"Names of none of the nodes."},
    "Every node by name.": {"Not every node by name."},
    "A figure with a legend.": {"A figure without a legend."},
    "A figure without legend.": {"A figure with legend."},
    "Gradient with respect to the weights.": {None},
    "The first axis.": {"The last axis."},
    "A valid name.": {"An invalid name."},
    "An even number.": {"An odd number."},
    "An empty or a single name.": {"A non-empty or a single name.", "A full or a single name."},
    "An internal name.": {"An external name."},
    "If True, keep the index.": {"If False, keep the index."},
    "Order by ascending cost.": {"Order by descending cost."},
    "Handling of reading and writing.": {None},
    "The path of input.txt and true_divide(x).": {None},
    "Compute the minimum of x.": {"Do not compute the minimum of x.", "Compute the maximum of x."},
    "Test class for arrays.": {None},
    "Set of nodes.": {None},
    "Lexer for Python source code.": {None},
    "Whether or not to copy.": {None},
    "": {None},
}


@pytest.mark.parametrize("sentence", TABLE)
def test_hand_written_table(sentence: str) -> None:
    assert negate(sentence) in TABLE[sentence]


@pytest.mark.parametrize(
    ("sentence", "same"),
    [
        ("Returns an element.", {"element", "item", "entry", "return", "give", "hand", "back"}),
        ("Raise an error.", {"error", "fault", "raise", "throw"}),
        ("Delete the file (if there is one).", {"remove", "delete", "file"}),
    ],
)
def test_other_words_are_synonyms_or_frame(sentence: str, same: set[str]) -> None:
    new = reword(sentence)
    frame = set(words("this it used employed to a an the function routine that way"))
    assert new is not None
    assert new != sentence
    assert {word.removesuffix("s") for word in words(new)} - {word.removesuffix("s") for word in frame} <= same


def test_rewording_keeps_a_negation() -> None:
    for sentence in ("Does not return a given value.", "The given value is not used.", "Never called directly."):
        new = reword(sentence)
        assert new is not None
        assert set(words(new)) & {"not", "never"} == set(words(sentence)) & {"not", "never"}


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """First sentences of the standard library: text that the rules were not written on."""
    library = Path(sysconfig.get_paths()["stdlib"])
    names = (
        "argparse",
        "ast",
        "calendar",
        "functools",
        "inspect",
        "logging/__init__",
        "pathlib",
        "shutil",
        "statistics",
    )
    found = [item.doc.summary for name in names for item in read_module((name, library / f"{name}.py"))]
    assert len(found) > 300
    return found


def test_edit_is_small_and_keeps_the_frame(sentences: list[str]) -> None:
    negated = [(sentence, new) for sentence in sentences if (new := negate(sentence)) is not None]
    assert len(negated) > len(sentences) / 2
    for sentence, new in negated:
        before, after = Counter(words(sentence)), Counter(words(new))
        assert 1 <= max((before - after).total(), (after - before).total()) <= 3, (sentence, new)
        assert new[0].isupper() == sentence[0].isupper(), (sentence, new)
        assert new[-1] == sentence[-1], (sentence, new)
        assert "  " not in new.replace("  ", "", sentence.count("  ")), (sentence, new)


def test_kinds_vary(sentences: list[str]) -> None:
    kinds: Counter[str] = Counter()
    for sentence in sentences:
        added = Counter(words(negate(sentence) or sentence)) - Counter(words(sentence))
        kinds["verb" if {"do", "does"} & set(added) else "not" if "not" in added else "other"] += added.total() > 0
    assert min(kinds.values()) >= 10
    assert len(kinds) == 3


def test_every_process_agrees(sentences: list[str]) -> None:
    program = (
        "import json, sys; from jemb.demo.negate import negate, reword; "
        "print(json.dumps([[negate(s), reword(s)] for s in json.load(sys.stdin)]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(sentences),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert json.loads(done.stdout) == [[negate(sentence), reword(sentence)] for sentence in sentences]
