"""The negator against hand-written tables, its properties on sentences of the standard library, and the stage."""

import json
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jemb.demo.packages import read_module
from jemb.demo.reword import reword
from jemb.prepare.engine.table import Rows
from jemb.prepare.english import base_of_third, head_verb, third_person, words
from jemb.prepare.negating import negate
from jemb.prepare.stages.negation import NegationConfig, add_negations
from tests.helpers.prepare_tools import inputs

# Sentence -> every right negation by the rules (a hash of the sentence chooses one); None: it cannot be negated.
DOCSTRINGS = {
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
    "The lock may be held.": {"The lock cannot be held."},
    "The graph has been drawn.": {"The graph has not been drawn."},
    "Whether it's a method.": {None},
    "This function returns a list.": {"This function does not return a list."},
    "A class that holds nodes.": {None},
    "It silently drops nodes.": {None},
    "Does not raise an error if the file is missing.": {"Raises an error if the file is missing."},
    "Do not return a copy.": {"Return a copy."},
    "Doesn't try again.": {"Tries again."},
    "Don't copy the array.": {"Copy the array."},
    "The object isn't picklable.": {"The object is picklable."},
    "The name cannot be parsed.": {"The name can be parsed."},
    "This can't happen here.": {"This can happen here."},
    "The call won't block.": {"The call will block."},
    "Nodes that have not been seen.": {None},
    "An error for names not in the table.": {None},
    "Never called directly.": {"Always called directly."},
    "ALWAYS on.": {"NEVER on."},
    "Base class for all estimators.": {None},
    "Names of all nodes.": {None},
    "A figure with a legend.": {None},
    "Gradient with respect to the weights.": {None},
    "The first axis.": {"The last axis."},
    "A valid name.": {"An invalid name."},
    "An even number.": {"An odd number."},
    "An internal name.": {"An external name."},
    "If True, keep the index.": {None},
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
SENTENCES = {
    # One verb, and where it is.
    "A man is playing a guitar": "A man is not playing a guitar",
    "A man plays a guitar on stage.": "A man does not play a guitar on stage.",
    "Two men play a game of chess.": None,
    "In June 1704, the gentry dethroned the king.": None,
    "In 1990 he joined the team.": None,
    "Houses built in 1900 burn well.": None,
    "A film called The Road won a prize.": None,
    "The man surrounded by photographers is smiling": "The man surrounded by photographers is not smiling",
    "Will Smith is an actor.": "Will Smith is not an actor.",
    "The can of beans is open.": "The can of beans is not open.",
    "He has limited experience.": None,
    "He has seen the film.": None,
    "It had six wheels.": None,
    "She's a doctor.": None,
    # Not the verb of another clause.
    "The man who is wearing a hat walks home.": None,
    "While it rained, the boys swam in the lake.": None,
    "When it rains, the match is off.": "When it rains, the match is not off.",
    "The book he has is old.": "The book he has is not old.",
    "Fans watch as players rest between sessions.": None,
    "A man whittles at a bar which serves beer.": None,
    "Grace enters the room and knocks the chair over.": None,
    "A man stands barefoot and watches the sunset.": None,
    "The price has risen at the end of it's lifespan.": None,
    "The person towards the right is dressed in black.": "The person towards the right is not dressed in black.",
    "The president leads the party and signs the laws.": None,
    "A few boys play the drums.": None,
    # What is said of some, or of a number, is not denied by its verb.
    "Some people are eating.": None,
    "All men are mortal.": None,
    "All you need is love.": None,
    "A few people are eating.": None,
    "Most people are eating.": None,
    "Only two people are eating.": None,
    "Nearly twenty schools have been built.": None,
    "A chef is preparing some food": None,
    "There is a man on a horse.": "There is no man on a horse.",
    "There are two men.": "There are no men.",
    "There are a lot of people here.": None,
    "There is snow on the ground.": None,
    "There is only one way.": None,
    "There are two chairs and a table.": None,
    "There are about 15,000 houses.": None,
    "In 1900 there were 300 farms.": None,
    "There are a total of 673 airports.": None,
    # Adverbs that would have to change too.
    "He is still there.": None,
    "He is also a singer.": None,
    "He is just a boy.": None,
    "It still has influence.": None,
    "The shop was open until 1990.": None,
    "He is there, too.": None,
    "It might rain.": None,
    "Is it raining?": None,
    "What is the capital of France": None,
    # Negations that are there.
    "There is no man slicing a tomato": None,
    "There is no milk in the glass": None,
    "There are no men in the room": "There are men in the room",
    "Nobody is cooking.": None,
    "He was not an actor.": None,
    "He does not have any money.": None,
    "He is not only an actor.": None,
    "He was not there because he was ill.": None,
    "Nobody is not there.": None,
    "Hardly anyone came.": None,
    "The eggs are not so popular.": None,
    # Captions.
    "Two children standing in the grass.": None,
    "Some people standing in the grass.": None,
    "A man with a dog.": None,
    "The dog runs. The cat sleeps on the mat.": None,
}


@pytest.mark.parametrize("sentence", DOCSTRINGS)
def test_docstrings(sentence: str) -> None:
    assert negate(sentence) in DOCSTRINGS[sentence]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_sentences(sentence: str) -> None:
    assert negate(sentence) == SENTENCES[sentence]


def test_forms_of_verbs() -> None:
    forms = {"try": "tries", "watch": "watches", "have": "has", "die": "dies", "cache": "caches", "close": "closes"}
    for verb, form in forms.items():
        assert third_person(verb) == form
        assert base_of_third(form) == verb
    assert [base_of_third(word) for word in ("glass", "bus", "this", "is", "not")] == [None] * 5
    # What is as often a noun needs a word beside it that only a verb has.
    assert [head_verb(text) is None for text in ("Checks of names", "Checks the names", "Check names")] == [
        True,
        False,
        False,
    ]


def test_no_negation_of_a_paragraph_or_of_what_is_no_english() -> None:
    assert negate("A man is here. He is old.") is None
    assert negate("A man is here\nand old") is None
    assert negate(" ".join(["A man is here and"] * 20)) is None
    assert negate("Ein Mann spielt Gitarre.") is None
    assert negate("一个男人在弹吉他。") is None
    assert negate("Mr. V. Smith is the founder.") == "Mr. V. Smith is not the founder."


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
    found = [item.summary for name in names for item in read_module((name, library / f"{name}.py"))]
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


def test_negating_twice_never_repeats_a_word(sentences: list[str]) -> None:
    for sentence in sentences:
        again = negate(negate(sentence) or "")
        assert again is None or not {"not not", "no not", "does does"} & {
            f"{a} {b}" for a, b in zip(words(again), words(again)[1:], strict=False)
        }


def test_kinds_vary(sentences: list[str]) -> None:
    kinds: Counter[str] = Counter()
    for sentence in sentences:
        added = Counter(words(negate(sentence) or sentence)) - Counter(words(sentence))
        kinds["verb" if {"do", "does"} & set(added) else "not" if "not" in added else "other"] += added.total() > 0
    assert min(kinds.values()) >= 5
    assert len(kinds) == 3


def test_every_process_agrees(sentences: list[str]) -> None:
    program = (
        "import json, sys; from jemb.demo.reword import reword; from jemb.prepare.negating import negate; "
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


ROWS = Rows(
    np.array([3, 5, 8, 9]),
    ["a dog outside", "two men", "a cat", "The car is not red."],
    ["A dog is outside.", "Two men by a lake.", "A cat sleeps.", "The car is red."],
    [(), (), ("A cat runs.", "A dog sleeps."), ()],
)


def test_stage_negates_pairs_and_leaves_triplets() -> None:
    verdict = add_negations(ROWS, NegationConfig(), inputs())
    assert verdict.negatives == [("A dog is not outside.",), (), ("A cat runs.", "A dog sleeps."), ()]
    # The last one's negation says what its query says.
    assert verdict.dropped == {1: ("not_negatable", ""), 3: ("not_negatable", "")}
    assert verdict.statistics == {"negated": 1, "had_negatives": 1}


def test_stage_can_keep_what_it_cannot_negate() -> None:
    verdict = add_negations(ROWS, NegationConfig(unmatched="keep"), inputs())
    assert verdict.dropped == {}
    assert verdict.negatives == [("A dog is not outside.",), (), ("A cat runs.", "A dog sleeps."), ()]
