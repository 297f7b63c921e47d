"""The rewording of the demo's anchors."""

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
