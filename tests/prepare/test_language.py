"""Language filter: decisions against guesses given by hand, and the real model on sentences anyone can check."""

from __future__ import annotations

import pytest

from jemb.core.errors import InputError
from jemb.prepare.stages.language import Guess, LanguageConfig, by_language, identifier, prose

GUESSES = {
    "english": Guess(0.9, "de", 0.05, False),
    "german": Guess(0.1, "de", 0.8, True),
    "french": Guess(0.2, "fr", 0.6, True),
    "name": Guess(0.3, "it", 0.4, False),
}


def guess(texts):
    return [GUESSES[text] for text in texts]


def reasons(verdict):
    return {position: reason for position, (reason, _) in verdict.dropped.items()}


def test_decisions_by_hand(rows):
    pairs = rows(
        ("english", "english"), ("english", "german"), ("french", "german"), ("name", "english"), ("name", "french")
    )
    assert reasons(by_language(pairs, guess, LanguageConfig(unsure="drop"))) == {
        1: "language:de",
        2: "language:de",
        3: "language:unsure",
        4: "language:fr",
    }
    assert reasons(by_language(pairs, guess, LanguageConfig())) == {
        1: "language:de",
        2: "language:de",
        4: "language:fr",
    }
    assert reasons(by_language(pairs, guess, LanguageConfig(sides="query", unsure="drop"))) == {
        2: "language:fr",
        3: "language:unsure",
        4: "language:unsure",
    }
    assert reasons(by_language(pairs, guess, LanguageConfig(sides="positive", unsure="drop"))) == {
        1: "language:de",
        2: "language:de",
        4: "language:fr",
    }
    assert reasons(by_language(pairs, guess, LanguageConfig(threshold=0.25, unsure="drop"))) == {
        1: "language:de",
        2: "language:de",
        4: "language:fr",
    }
    assert reasons(by_language(pairs, guess, LanguageConfig(threshold=0.0, unsure="drop"))) == {}


def test_the_packaged_model_knows_plain_sentences(rows):
    pairs = rows(
        ("How do I boil an egg?", "Put the egg into boiling water\nand wait for eight minutes."),
        ("HOW DO I BOIL AN EGG FOR BREAKFAST?", "Put it into boiling water and wait."),
        ("Wie koche ich ein Ei?", "Lege das Ei für acht Minuten in kochendes Wasser."),
        ("How do I boil an egg?", "Mettez l'œuf dans l'eau bouillante pendant huit minutes."),
    )
    verdict = by_language(pairs, identifier(["en"], None), LanguageConfig(unsure="drop"))
    assert verdict.statistics == {"languages": {"allowed": 5, "de": 2, "fr": 1}}
    assert reasons(verdict) == {2: "language:de", 3: "language:fr"}
    assert not by_language(pairs, identifier(["en", "de", "fr"], None), LanguageConfig(unsure="drop")).dropped


def test_probabilities_of_allowed_languages_add_up():
    text = ["Han er en god mann og bor i byen."]  # Norwegian, Danish and Swedish share it
    (no,), (da,) = identifier(["no"], None)(text), identifier(["da"], None)(text)
    (either,) = identifier(["no", "da"], None)(text)
    assert either.allowed == pytest.approx(no.allowed + da.allowed)
    assert either.top not in ("no", "da")


@pytest.mark.parametrize(
    "text",
    [
        "cut -d, -f 2", "split -d -l $SPLITLIMT $INFILE x_", "sudo su", "xgettext",
        "sfdk cmake --build .", "git read-tree -m branch1 branch2 && git merge-index git-merge-one-file path/to/file",
        "Ella Fitzgerald", "byte sex", "kiosk", "return np.asarray(x)[::-1]",
    ],
)  # fmt: skip
def test_commands_code_and_names_are_not_judged(text):
    """fastText takes each of these for another language, most with a probability above 0.6."""
    (guess,) = identifier(["en"], None)([text])
    assert guess.allowed < 0.5
    assert not guess.foreign


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Muestra la ayuda", "es"), ("Herstart het systeem.", "nl"),
        ("US-Soldat tötet bis zu 16 Zivilisten in Afghanistan", "de"),
        ("Liste les fichiers de `path/to/file` avec `ls -l`", "fr"),
        ("阿姆斯特朗从Livestrong辞职", "zh"), ("ein hund läuft über die wiese", "de"),
    ],
)  # fmt: skip
def test_prose_of_another_language_is_judged_however_short_or_full_of_code(text, language):
    (guess,) = identifier(["en"], None)([text])
    assert (guess.foreign, guess.top) == (True, language)


def test_prose_is_words_by_hand():
    assert prose("Run git-gc rather than git-repack.") == ["Run", "rather", "than"]
    assert prose("Der US-Markt (heute) steigt!") == ["Der", "US-Markt", "(heute)", "steigt!"]
    assert prose("one two three four x_1 $y") == []  # 4 of 6 tokens, and no sentence
    assert prose("one two three four x_1") == ["one", "two", "three", "four"]
    assert prose("camelCase isNot aWord.") == []


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
