"""The rewording of the demo's anchors."""

import json
import os
import subprocess
import sys

import pytest

from jemb.demo.reword import reword
from jemb.prepare.english import words


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


def test_every_process_agrees() -> None:
    sentences = [f"Return the given value of element {number}." for number in range(50)]
    program = (
        "import json, sys; from jemb.demo.reword import reword; "
        "print(json.dumps([reword(sentence) for sentence in json.load(sys.stdin)]))"
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
    assert json.loads(done.stdout) == [reword(sentence) for sentence in sentences]
