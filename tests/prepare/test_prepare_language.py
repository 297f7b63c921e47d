"""Language filter: decisions against guesses given by hand, and the real model on sentences anyone can check."""

from __future__ import annotations

import pytest

from jemb.errors import InputError
from jemb.prepare.language import Guess, by_language, identifier

GUESSES = {
    "english": Guess(0.9, "de", 0.05),
    "german": Guess(0.1, "de", 0.8),
    "french": Guess(0.2, "fr", 0.6),
    "name": Guess(0.3, "it", 0.4),
}


def guess(texts):
    return [GUESSES[text] for text in texts]


def reasons(verdict):
    return {position: reason for position, (reason, _) in verdict.dropped.items()}


def test_decisions_by_hand(rows):
    pairs = rows(
        ("english", "english"), ("english", "german"), ("french", "german"), ("name", "english"), ("name", "french")
    )
    assert reasons(by_language(pairs, guess, 0.5, "both", False)) == {
        1: "language:de",
        2: "language:de",
        3: "language:unsure",
        4: "language:fr",
    }
    assert reasons(by_language(pairs, guess, 0.5, "both", True)) == {
        1: "language:de",
        2: "language:de",
        4: "language:fr",
    }
    assert reasons(by_language(pairs, guess, 0.5, "query", False)) == {
        2: "language:fr",
        3: "language:unsure",
        4: "language:unsure",
    }
    assert reasons(by_language(pairs, guess, 0.5, "positive", False)) == {
        1: "language:de",
        2: "language:de",
        4: "language:fr",
    }
    assert reasons(by_language(pairs, guess, 0.25, "both", False)) == {
        1: "language:de",
        2: "language:de",
        4: "language:fr",
    }
    assert reasons(by_language(pairs, guess, 0.0, "both", False)) == {}


def test_the_packaged_model_knows_plain_sentences(rows):
    pairs = rows(
        ("How do I boil an egg?", "Put the egg into boiling water\nand wait for eight minutes."),
        ("HOW DO I BOIL AN EGG FOR BREAKFAST?", "Put it into boiling water and wait."),
        ("Wie koche ich ein Ei?", "Lege das Ei für acht Minuten in kochendes Wasser."),
        ("How do I boil an egg?", "Mettez l'œuf dans l'eau bouillante pendant huit minutes."),
    )
    verdict = by_language(pairs, identifier(["en"], None), 0.5, "both", False)
    assert verdict.statistics == {"languages": {"allowed": 5, "de": 2, "fr": 1}}
    assert reasons(verdict) == {2: "language:de", 3: "language:fr"}
    assert not by_language(pairs, identifier(["en", "de", "fr"], None), 0.5, "both", False).dropped


def test_probabilities_of_allowed_languages_add_up():
    text = ["Han er en god mann og bor i byen."]  # Norwegian, Danish and Swedish share it
    (no,), (da,) = identifier(["no"], None)(text), identifier(["da"], None)(text)
    (either,) = identifier(["no", "da"], None)(text)
    assert either.allowed == pytest.approx(no.allowed + da.allowed)
    assert either.top not in ("no", "da")


def test_odd_texts_do_no_harm():
    guesses = identifier(["en"], None)(["", " ", "\0", "\n\n", "🙂", "a" * 100_000])
    assert all(0 <= one.allowed <= 1.001 for one in guesses)


@pytest.mark.parametrize(
    ("allowed", "model", "message"),
    [
        (["english"], None, "does not know 'english'"),
        ([], None, "language.allowed is empty"),
        (["en"], "/nowhere/lid.bin", "cannot be loaded"),
    ],
)
def test_wrong_options_are_refused(allowed, model, message):
    with pytest.raises(InputError, match=message):
        identifier(allowed, model)
