"""The edits of single words: a negation taken out, and words swapped for their opposites.

`negation.py` chooses among them and those of `negating/rules.py`, which put a negation in.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from jemb.prepare.negating.english import (
    GERUNDS,
    PARTICIPLES,
    THIRDS,
    WORD,
    choice,
    head_verb,
    like,
    swap,
    table,
    third_person,
    words,
)
from jemb.prepare.negating.main_verb import (
    BE,
    PEOPLE,
    PEOPLE_SINGULAR,
    PREPOSITIONS,
    PRONOUNS,
    SUBORDINATE,
    Text,
    main_verb,
)

MAX_LABEL = 8
"""Words up to which a text without a verb is a label, in which a swapped adjective says the opposite."""

# Taking a negation out.


def take_out(text: Text, at: int) -> str | None:
    """The sentence without its one negation, which is the word at `at`."""
    word, before, after = text.words[at], text.word(at - 1), text.word(at + 1)
    subordinate = any(other in SUBORDINATE for other in text.words[(text.start or 0) + 1 : at])
    if word == "without":
        return _swap_with(text.sentence)
    if word == "never":
        return _swap_always(text.sentence)
    if _SCOPE_OF_NOT.search(text.sentence) or (subordinate and not re.match(_DESCRIPTION, text.sentence)):
        return None
    if word in ("no", "nobody", "none", "nothing"):
        return _take_out_no(text, at)
    if word in ("can't", "can’t", "cannot"):
        return text.edit(at, at, like("can", text.tokens[at][0]))
    if word in ("won't", "won’t"):
        return text.edit(at, at, like("will", text.tokens[at][0]))
    contracted = re.fullmatch(r"(do|does|did|is|are|was|were|has|have|had|could|would|should|must)n['’]t", word)
    if contracted:
        first, auxiliary = at, contracted[1]
    elif word == "not":
        first, auxiliary = at - 1, before
    else:
        return None
    if auxiliary in ("do", "does", "did") and after.isalpha() and (first == 0 or text.tokens[first][0].islower()):
        return _without_do(text, first, at + 1, auxiliary)
    if contracted:
        return text.edit(at, at, like(auxiliary, text.tokens[at][0]))
    if before in ("or", "but", "if", "whether", "why", "and", ",") or not after[:1].isalpha() or after in _AFTER_NOT:
        return None
    if after in ("a", "an") and (before not in BE or text.word(at + 2) == "single"):
        return None
    start, follower = text.tokens[at].start(), text.tokens[at + 1]
    kept = like(follower[0], text.tokens[at][0]) if at == 0 else follower[0]
    return text.sentence[:start] + kept + text.sentence[follower.end() :]


_DESCRIPTION = r"(?:(?:An?|The|This) )?[\w-]+(?: [\w-]+)? (?:that|which|who) "
_SCOPE_OF_NOT = re.compile(
    r"\b(?:any\w*|at all|ever|either|even|until|but|because|too|enough|longer|much|yet|whether|necessarily|so|as)\b",
    re.IGNORECASE,
)
"""Words beside a negation that do not stay right, or true, without it."""
_AFTER_NOT = frozenset(table("only just merely even all one to every everyone everything always more less once"))


def _without_do(text: Text, first: int, verb: int, auxiliary: str) -> str:
    """`does not raise` -> `raises`, `Do not return` -> `Return`, `did not win` -> `did win`."""
    base = text.words[verb]
    new = {"did": f"did {base}", "does": third_person(base), "do": base}[auxiliary]
    return text.edit(first, verb, like(new, text.tokens[first][0]))


def _take_out_no(text: Text, at: int) -> str | None:
    """`There are no men` -> `There are men`, `Nobody is` -> `Somebody is`, `No man is` -> `A man is`."""
    word, after = text.words[at], text.word(at + 1)
    model = text.tokens[at][0]
    if text.words[:2] in (["there", "are"], ["there", "were"]) and at == 2 and word == "no":
        return (
            text.edit(at, at + 1, text.tokens[at + 1][0]) if after.isalpha() and after not in ("one", "more") else None
        )
    if text.words[:2] in (["there", "is"], ["there", "was"]) and at == 2 and word == "no":
        return text.edit(at, at, "a") if after in PEOPLE_SINGULAR else None
    if at != 0:
        return None
    if word == "no" and after == "one":
        return text.edit(0, 1, like("someone", model))
    if word in ("nobody", "nothing") and BE & {after}:
        return text.edit(0, 0, like("some" + word[2:], model))
    if word == "no" and after in PEOPLE_SINGULAR | PEOPLE:
        return text.edit(0, 0, like("a" if after in PEOPLE_SINGULAR else "some", model))
    return None


# Swapping one word.


def _both_ways(pairs: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one, other in (pair.split("/") for pair in table(pairs)):
        found.setdefault(one, other)
        found.setdefault(other, one)
    return found


_OPPOSITE = _both_ways("""
enabled/disabled enable/disable enables/disables include/exclude includes/excludes inclusive/exclusive
minimum/maximum minimal/maximal minimize/maximize smallest/largest smaller/larger lowest/highest lower/upper
shortest/longest nearest/farthest first/last before/after above/below inside/outside start/end ascending/descending
increasing/decreasing increase/decrease positive/negative valid/invalid optional/required empty/non-empty
internal/external public/private global/local forward/backward input/output inputs/outputs row/column rows/columns
even/odd equal/unequal known/unknown supported/unsupported sorted/unsorted directed/undirected weighted/unweighted
mutable/immutable visible/invisible dense/sparse synchronous/asynchronous horizontal/vertical top/bottom
absolute/relative exact/approximate linear/nonlinear compressed/uncompressed encoded/decoded active/inactive
numerator/denominator parent/child
""")
# Only where a verb at the head shows a docstring: elsewhere they are other words too ("high school", "he left").
_TECHNICAL = _OPPOSITE | _both_ways("""
true/false min/max left/right small/large high/low long/short real/imaginary add/remove adds/removes added/removed
adding/removing append/prepend read/write reading/writing load/save loads/saves loaded/saved push/pop open/close
opened/closed encode/decode encoding/decoding compress/decompress import/export imports/exports success/failure
full/empty present/absent included/excluded including/excluding allowed/forbidden accept/reject accepts/rejects
similar/dissimilar successful/unsuccessful safe/unsafe signed/unsigned labeled/unlabeled connected/disconnected
attach/detach pack/unpack wrap/unwrap static/dynamic discrete/continuous strict/loose
""")


def _replace(pattern: str, new: Callable[[re.Match[str]], str], sentence: str) -> str | None:
    """`sentence` with the first match replaced, or None without a match."""
    text, count = re.subn(pattern, new, sentence, count=1, flags=re.IGNORECASE)
    return text if count else None


def _swap_always(sentence: str) -> str | None:
    """always <-> never."""
    before = re.split(r"\b(?:always|never)\b", sentence, flags=re.IGNORECASE)[0]
    if set(words(before)[1:]) & SUBORDINATE:
        return None
    return _replace(
        r"\b(?:always|never)\b(?! again| before| ever| any)",
        lambda match: like("never" if match[0].lower() == "always" else "always", match[0]),
        sentence,
    )


def _swap_all(sentence: str) -> str | None:
    """`of all nodes` -> `of no nodes`, `of all the nodes` -> `of none of the nodes`."""
    return _replace(r"\bof all(?= (?:the|its|their) )", lambda match: "of none of", sentence) or _replace(
        r"\bof all(?= (?!ages|kinds|sorts|types|times|levels|sizes|sides)[a-z]+s\b)", lambda match: "of no", sentence
    )


def _swap_truth(sentence: str) -> str | None:
    """`If True` <-> `If False`."""
    return _replace(
        r"(?<=\bif )(?:true|false)\b",
        lambda match: like("False" if match[0].lower() == "true" else "True", "X"),
        sentence,
    )


def _swap_with(sentence: str) -> str | None:
    """`A figure with a legend` <-> `A figure without a legend`: what a thing has, not what is done with it."""
    match = _THING_WITH.match(sentence)
    if not match or set(words(match["thing"])) & _NO_THING:
        return None
    other = "without" if match["with"] == "with" else "with"
    return sentence[: match.start("with")] + other + sentence[match.end("with") :]


_THING_WITH = re.compile(
    r"(?P<thing>(?:(?:an?|the|one|two|three) )?(?:[a-z]+ ){1,2})(?P<with>with|without)"
    r"(?= (?:an?|long|short|many|several|other|red|blue|green|black|white|yellow) [a-z]|(?<=without) [a-z])",
    re.IGNORECASE,
)
_NO_THING = GERUNDS | THIRDS.keys() | PARTICIPLES | PRONOUNS | BE | SUBORDINATE | PREPOSITIONS


def _swap_antonym(sentence: str) -> str | None:
    """One word that has an opposite, replaced by it; `a` and `an` before it follow. For docstrings and short labels."""
    if head_verb(sentence) is not None:
        opposite = _TECHNICAL
    elif len(sentence.split()) <= MAX_LABEL and main_verb(Text.of(sentence)) is None:
        opposite = _OPPOSITE
    else:
        return None
    # A word beside its own opposite ("reading and writing") is part of a list: swapping it says the same.
    no_candidates = {"", *words(sentence)}
    found = [match for match in WORD.finditer(sentence) if opposite.get(match["word"].lower(), "") not in no_candidates]
    if not found:
        return None
    match = choice(sentence, "antonym", found)
    return sentence[: match.start()] + swap(match, opposite[match["word"].lower()]) + sentence[match.end() :]


LEXICAL: tuple[Callable[[str], str | None], ...] = (_swap_always, _swap_all, _swap_truth, _swap_with, _swap_antonym)
