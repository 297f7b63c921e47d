"""The edits that negate a sentence: one function a rule, each giving the new sentence, or None where it does not fit.

`negation.py` chooses among them. The rules of a main clause need its verb, which `main_verb.py` finds.
"""

from __future__ import annotations

import re
from typing import Literal

from jemb.prepare.negating.english import (
    AMBIGUOUS_PASTS,
    BASES,
    GERUNDS,
    NOUNS,
    PARTICIPLES,
    PASTS,
    THIRDS,
    head_verb,
    like,
    table,
    words,
)
from jemb.prepare.negating.main_verb import (
    BE,
    CONTRACTED,
    HAVE,
    MODALS,
    OBJECTS,
    PEOPLE,
    PEOPLE_SINGULAR,
    PREPOSITIONS,
    PRONOUNS,
    SUBORDINATE,
    UNSURE_ADVERBS,
    Text,
    Verb,
    has_object,
    is_adverb,
    is_perfect,
    main_verb,
)

_NUMBERS = frozenset(
    table("""
two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
twenty thirty forty fifty sixty seventy eighty ninety
""")
)
_SCOPE = re.compile(
    r"\b(?:because|until|unless|only|any|anymore|anyone|anything|yet|ever|even|either|at least|at most|as well|so that)"
    r"\b|, too,|\btoo\W*$",
    re.IGNORECASE,
)
"""Words that say something else under a negation, or nothing."""


# The main clause.


def negate_main(text: Text) -> str | None:
    """The main verb negated, or the quantifier of its subject; None where it cannot be found."""
    verb = main_verb(text)
    if verb is None or text.start is None or _SCOPE.search(text.sentence):
        return None
    if text.word(text.start) in ("there", "there's", "there’s"):
        return _negate_there(text, verb.at) if text.word(verb.at) in _THERE_BE and verb.at <= text.start + 1 else None
    subject = text.words[text.start : verb.first]
    if subject and subject[0] in _QUANTIFIERS:
        return _negate_quantifier(text, text.start)
    if _UNSURE_QUANTIFIERS & set(subject[:2]) or {"only", "nearly", "almost", "least"} & set(subject):
        return None
    new = _negate_verb(text, verb)
    return _some_to_any(new, text.tokens[verb.at].end()) if new else None


_THERE_BE = frozenset(["is", "are", "was", "were", "there's", "there’s"])


def _negate_verb(text: Text, verb: Verb) -> str | None:
    if verb.kind == "contracted":
        return _negate_contracted(text, verb.at)
    if verb.kind == "auxiliary" or (verb.kind == "has" and is_perfect(text, verb.at)):
        return _negate_auxiliary(text, verb.at)
    if verb.kind == "has" and not has_object(text, verb.at):
        return None
    return _negate_with_do(text, verb)


def _negate_auxiliary(text: Text, at: int) -> str | None:
    """`is` -> `is not`, `can` -> `cannot`, `may` -> `cannot`, `has been` -> `has not been`."""
    word, adverb = text.tokens[at][0], text.word(at + 1)
    if adverb in UNSURE_ADVERBS:
        return None
    if adverb == "still":
        return text.edit(at + 1, at + 1, "no longer")
    # "may not" can mean that the other may be true as well.
    negated = "cannot" if word in ("can", "may") else f"{word} not"
    if adverb == "also":
        return text.edit(at, at + 1, negated)
    if adverb == "already":
        return text.edit(at, at + 1, f"{negated} yet")
    return text.edit(at, at, negated)


def _negate_contracted(text: Text, at: int) -> str | None:
    """`it's` -> `it's not`, `they'll` -> `they will not`."""
    match = CONTRACTED.fullmatch(text.words[at])
    follower = text.word(at + 1)
    if match is None or not follower or follower in UNSURE_ADVERBS | {"also", "still", "already"}:
        return None
    token = text.tokens[at][0]
    if match["end"] == "ll":
        return text.edit(at, at, f"{token[: match.end('word')]} will not")
    return text.edit(at, at, f"{token} not") if text.word(at) not in ("that's", "that’s") or at == 0 else None


def _negate_with_do(text: Text, verb: Verb) -> str | None:
    """`returns` -> `does not return`, `silently drops` -> `does not silently drop`."""
    if _joins_another(text, verb.at):
        return None
    adverbs = [word for word in text.words[verb.first : verb.at] if word != "also"]
    if verb.kind == "has":
        auxiliary = HAVE[text.words[verb.at]]
    else:
        auxiliary = {"third": "does", "past": "did", "base": "do"}[verb.kind]
    base = "" if verb.base == "do" and text.word(verb.at + 1) in BASES else verb.base
    return text.edit(verb.first, verb.at, " ".join(filter(None, [auxiliary, "not", *adverbs, base])))


def _joins_another(text: Text, verb: int) -> bool:
    """`enters and knocks at the door`: a second verb, which would need its base form too."""
    for at in range(verb + 1, len(text.words) - 1):
        if text.words[at] not in ("and", "or", "but", "then", ","):
            continue
        at += 1
        while is_adverb(text.word(at)) or text.word(at) in ("then", "and"):
            at += 1
        word, follower, verb_known = text.word(at), text.word(at + 1), THIRDS.get(text.word(at))
        if word in PASTS or word in AMBIGUOUS_PASTS or (verb_known and verb_known not in NOUNS):
            return True
        if word.endswith("s") and (follower in OBJECTS or (verb_known and follower in PREPOSITIONS)):
            return True
    return False


def _some_to_any(sentence: str, verb: int) -> str | None:
    """`is not eating some food` -> `is not eating any food`, where the word surely belongs to the verb."""
    match = re.search(r"\b(?:some|someone|somebody|something)\b", sentence[verb:])
    if not match:
        return sentence
    between = sentence[verb : verb + match.start()]
    if set(words(between)) & (SUBORDINATE | {"and", "or", "but", "to"}) or "," in between:
        return None
    start = verb + match.start()
    return sentence[:start] + "any" + sentence[start + len("some") :]


# Quantifiers.

_QUANTIFIERS = {
    "some": "no",
    "several": "no",
    "someone": "nobody",
    "somebody": "nobody",
    "something": "nothing",
    **{word: f"not {word}" for word in table("all every everyone everybody everything many")},
}
_UNSURE_QUANTIFIERS = frozenset(
    table("""
few fewer most lot lots both each either any anyone anything half about over approximately around roughly numerous
various more less another number couple plenty
""")
)
_SOME_OF_THESE = re.compile(
    r"(?:a lot of|lots of|a number of|a couple of|a few|plenty of|a variety of|an?|one|some|several|many|multiple|any"
    rf"|numerous|\d[\d,]*|{'|'.join(_NUMBERS)})"
    r"(?= (?!of\b|few\b|lot\b|number\b|couple\b|variety\b|one\b|hundred|thousand|dozen)\w)"
)
_NOT_COUNTED = frozenset(
    table("""
the this that his her its their also only always still more less at about over nearly almost up exactly another other
around approximately just even some probably enough little nothing something someone somebody everyone everything
""")
)


def _negate_there(text: Text, at: int) -> str | None:
    """`There is a man` -> `There is no man`, `There are two men` -> `There are no men`; also `There is no snow`."""
    rest = text.after(at).lstrip()
    begin = text.sentence[: len(text.sentence) - len(rest)]
    # "There are no chairs and a table" says something about the table too.
    if re.search(r" and (?:an?|one|some|several|many|two|three|four) ", rest):
        return None
    if match := _SOME_OF_THESE.match(rest):
        return f"{begin}no{rest[match.end() :]}"
    follower = text.word(at + 1)
    return f"{begin}no {rest}" if follower.isalpha() and follower not in _NOT_COUNTED | _UNSURE_QUANTIFIERS else None


def _negate_quantifier(text: Text, at: int) -> str | None:
    """`Some men are` -> `No men are`, `Everyone is` -> `Not everyone is`, `Some of the` -> `None of the`."""
    word, follower = text.words[at], text.word(at + 1)
    new = _QUANTIFIERS[word]
    if follower == "of" and new == "no":
        new = "none"
    elif follower in PREPOSITIONS | _NUMBERS | PRONOUNS | {"that", "this"} and not (
        follower == "of" and word in ("all", "many")
    ):
        return None
    return text.edit(at, at, like(new, text.tokens[at][0]))


# Sentences without a main verb: imperatives and descriptions, as docstrings and captions have them.


def negate_head(text: Text) -> str | None:
    """`Return x` -> `Do not return x`; `Returns x` -> `Does not return x`."""
    head = head_verb(text.sentence)
    if head is None or (text.start is not None and main_verb(text) is not None):
        return None
    adverb, verb, rest, third = head
    return f"{'Does' if third else 'Do'} not {adverb.lower()}{verb}{rest}"


def negate_fragment(text: Text) -> str | None:
    """`A class that holds nodes` -> `… that does not hold nodes`; `A man playing a guitar` -> `A man not playing …`."""
    if text.start != 0 or main_verb(text) is not None or _SCOPE.search(text.sentence):
        return None
    for at in range(1, min(5, len(text.words) - 1)):
        word = text.words[at]
        if word in ("that", "which", "who"):
            return _negate_relative(text, at)
        if word in GERUNDS and text.words[at - 1] in PEOPLE_SINGULAR | PEOPLE:
            quantified = {text.words[0], text.words[1]} & (_QUANTIFIERS.keys() | _UNSURE_QUANTIFIERS)
            return None if quantified else text.edit(at, at, f"not {text.words[at]}")
        if not word.isalpha() or word in PREPOSITIONS | SUBORDINATE:
            return None
    return None


def _negate_relative(text: Text, relative: int) -> str | None:
    """The verb of a relative clause, when the sentence holds no other."""
    at = relative + 1
    while is_adverb(text.word(at)):
        at += 1
    word = text.word(at)
    if any(other in BE | MODALS | HAVE.keys() or other in PASTS for other in text.words[at + 1 :]):
        return None
    if any(other in THIRDS for other in text.words[at + 1 :]) or "," in text.words:
        return None
    if any(other in PARTICIPLES or other in THIRDS for other in text.words[:relative]):
        return None
    if word in BE | MODALS and text.word(at + 1):
        return _negate_auxiliary(text, at)
    if word in THIRDS:
        kind: Literal["has", "third"] = "has" if word == "has" else "third"
        return _negate_verb(text, Verb(at, kind, THIRDS[word], relative + 1))
    return None
