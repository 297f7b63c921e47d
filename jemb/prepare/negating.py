"""A sentence negated by rule: few rules, which stop where they are not sure; there is then no negation.

one sentence -> has it a negation? -> take it out
             -> find the finite verb of the main clause, or the verb at its head -> negate it
             -> or swap one word for its opposite
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jemb.core.text import count_words
from jemb.prepare.english import WORD, base_of_third, choice, head_verb, like, swap, table, third_person, words

MAX_WORDS = 40
"""Longer sentences have more clauses than the rules can tell apart."""
MAX_LABEL = 8
"""Words up to which a text without a verb is a label, in which a swapped adjective says the opposite."""


def negate(sentence: str) -> str | None:
    """`sentence` with its meaning turned round by an edit of one to three words; None where no rule fits.

    A negation that is there is removed. Else one is inserted, or, one time in three where both can be done, a word
    swapped for its opposite. The choice depends on a hash of the sentence, so kinds vary, and every run and machine
    agrees. Only single sentences of English: no questions, no paragraphs.
    """
    if not _is_one_sentence(sentence):
        return None
    text = _Text.of(sentence)
    if negations := [at for at, word in enumerate(text.words) if _NEGATION.fullmatch(word)]:
        # A second one beside it would be hard to read.
        return _take_out(text, negations[0]) if len(negations) == 1 else None
    verb = _finite_verb(text)
    inserted = _negate_head(sentence) if verb is None else _negate_clause(text, verb)
    swapped = _swap_opposite(sentence, is_label=verb is None)
    if swapped and (inserted is None or choice(sentence, "kind", (False, False, True))):
        return swapped
    return inserted


class _Text(NamedTuple):
    """A sentence, and its words and signs, which `words` has in lower case."""

    sentence: str
    tokens: list[re.Match[str]]
    words: list[str]

    @classmethod
    def of(cls, sentence: str) -> _Text:
        tokens = list(re.finditer(r"\w+(?:['’-]\w+)*|[^\w\s]", sentence))
        return cls(sentence, tokens, [token[0].lower() for token in tokens])

    def word(self, at: int) -> str:
        """The word at a place, "" beyond the ends."""
        return self.words[at] if 0 <= at < len(self.words) else ""

    def edit(self, first: int, last: int, new: str) -> str:
        """The sentence with `new` in the place of the words from `first` to `last`, with the capitals of the first."""
        before, after = self.sentence[: self.tokens[first].start()], self.sentence[self.tokens[last].end() :]
        return before + like(new, self.tokens[first][0]) + after


def _is_one_sentence(sentence: str) -> bool:
    text = sentence.strip()
    if "?" in text or "\n" in text or not text or count_words(text) > MAX_WORDS:
        return False
    for end in re.finditer(r"([^\W\d_]+)?[.!]['\")\]]* +(?=[A-Z\"'(])", text):
        if not end[1] or (len(end[1]) > 2 and end[1].lower() not in _ABBREVIATIONS):
            return False
    return True


_ABBREVIATIONS = table("mrs prof gen col capt sgt rev hon inc ltd corp vol etc sen gov rep fig approx")
_LEADING = table("if when whenever while after before although though because since unless until once as given whereas")
_SUBORDINATE = _LEADING | table("who which that whose whom where whether than what how why")
_NO_STATEMENT = table("what who whom whose which why how where whether here nor so such")
_BREAKS = frozenset(":;—–-'\"‘’“”()[]{}*/`") | {"might"}
_BE = table("is are was were am")
_MODALS = table("can could will would should must may")
_DETERMINERS = table("a an the this these those its their our his her my your")
_PREPOSITIONS = table("""
in on at to from for with by of into onto over under across through around along near behind beside between among
against about during within inside outside above below towards besides
""")
_NEGATION = re.compile(
    r"not|cannot|never|no|none|nobody|nothing|nowhere|neither|nor|without|hardly|barely|scarcely|rarely|seldom"
    r"|non|[a-z]+n['’]t"
)
_SCOPE = re.compile(
    r"\b(?:any\w*|some\w*|at all|at least|at most|as well|ever|either|even|until|unless|because|only|yet|enough|longer"
    r"|much|necessarily)\b|, too,|\btoo\W*$",
    re.IGNORECASE,
)
"""Words that say something else beside a negation than without one."""
_UNSURE_ADVERBS = table("""
only just merely simply even nearly almost about probably perhaps possibly likely maybe certainly sometimes occasionally
both either presumably supposedly rather better then thus therefore too at much far also still already all one to every
everyone everything always more less once so as
""")
_OF_NUMBER = table("""
some someone somebody something several many all every everyone everybody everything few fewer most more lot lots both
each either any anyone half about over only nearly almost least couple number numerous various
""")
_COUNTED = re.compile(
    r"(?:an?|one|several|many|two|three|four|five|six|seven|eight|nine|ten|\d[\d,]*) "
    r"(?!of\b|few\b|lot\b|total\b|number\b|couple\b|variety\b|hundred|thousand|dozen)"
)


def _take_out(text: _Text, at: int) -> str | None:
    """The sentence without its one negation, which is the word at `at`."""
    word, before, after = text.words[at], text.word(at - 1), text.word(at + 1)
    if _SUBORDINATE & set(text.words[1:at]) or _SCOPE.search(text.sentence) or not after.isalpha():
        return None
    if word == "never":
        return text.edit(at, at, "always") if after not in ("again", "before") else None
    if word == "no" and text.words[:at] in (["there", "are"], ["there", "were"]) and after not in ("one", "more"):
        return text.edit(at, at + 1, text.tokens[at + 1][0])
    contracted = re.fullmatch(r"(do|does|did|is|are|was|were|has|have|had|could|would|should|must|ca|wo)n['’]t", word)
    if contracted or word == "cannot":
        stem = contracted[1] if contracted else "can"
        first, auxiliary = at, {"ca": "can", "wo": "will"}.get(stem, stem)
    elif word == "not" and before in _BE | _MODALS | {"do", "does", "did", "has", "have", "had"}:
        first, auxiliary = at - 1, before
    else:
        return None
    if after in _UNSURE_ADVERBS | {"a", "an"}:
        return None
    if auxiliary in ("do", "does", "did"):
        verb = {"does": third_person(after), "do": after, "did": f"did {after}"}[auxiliary]
        return text.edit(first, at + 1, verb)
    return text.edit(first, at, auxiliary)


def _finite_verb(text: _Text) -> int | None:
    """Place of the finite verb of the main clause: an auxiliary, or a verb in -s with a subject and an object beside
    it. None if there is none, or another clause may have started before it."""
    start = 0
    if text.word(0) in _LEADING and "," in text.words:
        start = text.words.index(",") + 1
    elif text.word(0) in _LEADING | _NO_STATEMENT:
        return None
    for at in range(start, len(text.words) - 1):
        word, before, follower = text.words[at], text.word(at - 1), text.word(at + 1)
        if word in _BREAKS or (at > start and word in _SUBORDINATE) or _CONTRACTED.fullmatch(word):
            return None
        # A capital is a name ("Will", "May"), and after a determiner stands a noun ("the can").
        pronoun = at - 1 == start and before in ("this", "that", "these", "those")
        if at == start or text.tokens[at][0] != word or before == "to" or (before in _DETERMINERS and not pronoun):
            continue
        if word in _BE or (word in ("has", "have", "had") and follower == "been"):
            return at
        if word in _MODALS and follower.isalpha() and follower not in _NO_BASE and before not in _CANS:
            return at
        if _is_verb_with_object(text, start, at):
            return at
    return None


_CONTRACTED = re.compile(r"(?:it|he|she|that|there|they|we|you|i)['’](?:s|re|m|ll|d|ve)")
_NO_BASE = _BE | _MODALS | _DETERMINERS | _PREPOSITIONS | {"has", "had", "and", "or"}
_CANS = table("trash garbage beer tin soda spray watering")


def _is_verb_with_object(text: _Text, start: int, at: int) -> bool:
    """`A man plays a`, `It has two`, `This method returns the`: a short subject, one thing; and no second verb."""
    subject, follower, after = text.words[start:at], text.word(at + 1), text.sentence[text.tokens[at].end() :]
    if base_of_third(text.words[at]) is None or text.words[at] in _PREPOSITIONS:
        return False
    if not (follower in _DETERMINERS or follower in ("him", "them", "it") or _COUNTED.match(after.lstrip())):
        return False
    if re.search(r"\b(?:and|or|but|then) (?:\w+ly )?\w+s\b", after):
        return False
    if len(subject) == 1:
        return subject[0] in ("he", "she", "it", "this")
    one = subject[0] in ("a", "an", "one", "the", "this", "his", "her", "its") and len(subject) <= 3
    return one and "".join(subject).isalpha() and not _NO_SUBJECT & set(subject[1:])


_NO_SUBJECT = _PREPOSITIONS | _OF_NUMBER | {"and", "or", "also", "often", "always"}


def _negate_clause(text: _Text, at: int) -> str | None:
    """`is` -> `is not`, `can` -> `cannot`, `returns` -> `does not return`, `There is a` -> `There is no`."""
    word, follower = text.words[at], text.word(at + 1)
    if text.word(at - 1) == "there":
        counted = _COUNTED.match(text.sentence, text.tokens[at].end() + 1)
        # "There are no chairs and a table" says something about the table too.
        if at > 1 or not counted or " and " in text.sentence:
            return None
        return f"{text.sentence[: counted.start()]}no {text.sentence[counted.end() :]}"
    # "Some are not" does not deny "some are".
    if _SCOPE.search(text.sentence) or follower in _UNSURE_ADVERBS or _OF_NUMBER & set(text.words[:at]):
        return None
    if word in ("can", "may"):  # "may not" can mean that the other may be true as well
        return text.edit(at, at, "cannot")
    if word in _BE | _MODALS or follower == "been":
        return text.edit(at, at, f"{word} not")
    return text.edit(at, at, f"does not {base_of_third(word)}")


def _negate_head(sentence: str) -> str | None:
    """`Return x` -> `Do not return x`; `Returns x` -> `Does not return x`."""
    if (head := head_verb(sentence)) is None:
        return None
    adverb, verb, rest, third = head
    return f"{'Does' if third else 'Do'} not {adverb.lower()}{verb}{rest}"


_PAIRS = table("""
enabled/disabled enable/disable enables/disables include/exclude includes/excludes inclusive/exclusive
minimum/maximum minimal/maximal smallest/largest lowest/highest shortest/longest first/last before/after above/below
inside/outside start/end ascending/descending increasing/decreasing increase/decrease positive/negative valid/invalid
optional/required internal/external public/private global/local forward/backward input/output inputs/outputs
even/odd equal/unequal known/unknown supported/unsupported sorted/unsorted mutable/immutable always/never
visible/invisible dense/sparse horizontal/vertical absolute/relative compressed/uncompressed active/inactive
""")
_OPPOSITE = dict(pair.split("/")[::step] for pair in _PAIRS for step in (1, -1))


def _swap_opposite(sentence: str, is_label: bool) -> str | None:
    """One word that has an opposite, replaced by it; `a` and `an` before it follow. For docstrings and short labels."""
    if head_verb(sentence) is None and not (is_label and len(sentence.split()) <= MAX_LABEL):
        return None
    # A word beside its own opposite ("inputs and outputs") is part of a list: swapping it says the same.
    taken = {"", *words(sentence)}
    found = [match for match in WORD.finditer(sentence) if _OPPOSITE.get(match["word"].lower(), "") not in taken]
    if not found:
        return None
    match = choice(sentence, "antonym", found)
    return sentence[: match.start()] + swap(match, _OPPOSITE[match["word"].lower()]) + sentence[match.end() :]
