"""Where the main verb of a sentence is: what a negation needs to know of grammar, and no more.

`negating/rules.py` negates what is found here. There is no parser: words are told apart by tables and by what stands
beside them, and whatever may be something else (a noun, a participle, the verb of another clause) is not taken.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from jemb.prepare.negating.english import (
    AMBIGUOUS_PASTS,
    BASES,
    NOUNS,
    PARTICIPLES,
    PASTS,
    THIRDS,
    base_of_third,
    table,
)

_FIRST_OF_QUESTION = frozenset(table("what who whom whose which why how where here nor so such"))
_LEADING = frozenset(
    table("if when whenever while after before although though because since unless until once as given whereas")
)
SUBORDINATE = frozenset(
    table("""
who which that whose whom where when if whether because while although though unless until than what how why whenever
whereas since
""")
)
PRONOUNS = frozenset(table("i he she they we you it"))
CONTRACTED = re.compile(r"(?P<word>it|he|she|that|there|they|we|you|i)['’](?P<end>s|re|m|ll)")
BE = frozenset(table("is are was were am"))
MODALS = frozenset(table("can could will would should must may"))
HAVE = {"has": "does", "have": "do", "had": "did"}
_DETERMINERS = frozenset(table("a an the this these those its their our his her my your"))
OBJECTS = _DETERMINERS | frozenset(
    table("him them it us me himself herself itself themselves one two three four some all both each every another")
)
PREPOSITIONS = frozenset(
    table("""
in on at to from for with by of into onto over under across through around along down up off out near behind beside
beneath between among against towards toward past about during within inside outside above below upon after before as
""")
)
_NAMING = frozenset(table("call name title award give offer grant term dub style label show teach send pay tell"))
"""Verbs whose participle can have an object, as in `a film called The Road`."""
PEOPLE_SINGULAR = frozenset(
    table("""
man woman person boy girl child kid baby toddler guy lady gentleman player worker dog cat horse bird chef surfer
skateboarder cyclist biker runner singer musician guitarist dancer climber skier snowboarder soldier student teacher
athlete performer artist cook swimmer rider couple group crowd team band family
""")
)
PEOPLE = frozenset(
    table("""
men women people boys girls children kids babies toddlers guys ladies gentlemen players workers dogs cats horses birds
chefs surfers skateboarders cyclists bikers runners singers musicians dancers climbers skiers soldiers students
teachers athletes performers artists friends adults teenagers males females couples
""")
)
UNSURE_ADVERBS = frozenset(
    table("""
only just merely simply even nearly almost about probably perhaps possibly likely maybe certainly sometimes occasionally
both either presumably supposedly rather better then thus therefore too at much far
""")
)


class Text(NamedTuple):
    """A sentence and its words and signs. start: the word at which its main clause starts; None if nobody can tell."""

    sentence: str
    tokens: list[re.Match[str]]
    words: list[str]
    start: int | None

    @classmethod
    def of(cls, sentence: str) -> Text:
        tokens = list(re.finditer(r"\w+(?:['’-]\w+)*|[^\w\s]", sentence))
        words = [token[0].lower() for token in tokens]
        start: int | None = 0
        if not words or words[0] in _FIRST_OF_QUESTION:
            start = None
        elif words[0] == "whether":
            start = 1
        elif words[0] in _LEADING:
            start = words.index(",") + 1 if "," in words else None
        return cls(sentence, tokens, words, start)

    def word(self, at: int) -> str:
        """The word at a place, "" beyond the ends."""
        return self.words[at] if 0 <= at < len(self.words) else ""

    def edit(self, first: int, last: int, new: str) -> str:
        """The sentence with `new` in the place of the words from `first` to `last`."""
        return self.sentence[: self.tokens[first].start()] + new + self.sentence[self.tokens[last].end() :]

    def after(self, at: int) -> str:
        """What follows a word."""
        return self.sentence[self.tokens[at].end() :]


class Verb(NamedTuple):
    """A finite verb: where it is, what it is, its base form; first: where its adverbs start."""

    at: int
    kind: Literal["auxiliary", "contracted", "has", "third", "past", "base"]
    base: str
    first: int


def main_verb(text: Text) -> Verb | None:
    """The first finite verb, if no subordinate clause may have started before it."""
    if text.start is None:
        return None
    at = text.start
    while at < len(text.words):
        word = text.words[at]
        if word in ('"', "“", "("):
            closing = {'"': '"', "“": "”", "(": ")"}[word]
            if closing not in text.words[at + 1 :]:
                return None
            at = text.words.index(closing, at + 1) + 1
            continue
        if word in _BREAKS or (word in SUBORDINATE and at > text.start):
            return None
        if word == "as" and text.word(at - 1) not in ("such", "known", "well", "same", "as", "") and at > text.start:
            return None
        verb = _finite(text, at)
        if verb is not None:
            subject = verb.first - 1
            late = text.word(subject) in PRONOUNS and subject > text.start and text.word(subject - 1) != ","
            # "The book he has is …", but "In 1990 he had …".
            return None if late and text.words[text.start] not in PREPOSITIONS else verb
        at += 1
    return None


_BREAKS = frozenset([";", ":", "—", "–", "-", "'", "‘", "[", "{", "*", "/", "might"])


def _finite(text: Text, at: int) -> Verb | None:
    """The finite verb at a place; None if the word there is surely or perhaps something else."""
    word = text.words[at]
    if CONTRACTED.fullmatch(word):
        return Verb(at, "contracted", "be", at)
    first = at
    while is_adverb(text.word(first - 1)) and first - 1 > (text.start or 0):
        first -= 1
    before, follower = text.word(first - 1), text.word(at + 1)
    # A capital is a name ("Will", "May"); the first word has no subject.
    if at == text.start or text.tokens[at][0] != word or before == "to" or not follower:
        return None
    if before in _DETERMINERS and not (before in ("this", "that", "these", "those") and first - 1 == text.start):
        return None
    if word in BE:
        return Verb(at, "auxiliary", "be", at)
    if word in MODALS:
        noun = before in ("trash", "garbage", "beer", "tin", "soda", "spray", "watering") or not follower.isalpha()
        return None if noun or follower in PREPOSITIONS | {"and", "or"} else Verb(at, "auxiliary", word, at)
    # "still has": what is negated would have to change too.
    if before in ("still", "already", "just", "even"):
        return None
    if word in HAVE:
        return Verb(at, "has", "have", first)
    return _lexical(text, at, first, before, follower)


def _lexical(text: Text, at: int, first: int, before: str, follower: str) -> Verb | None:
    """A finite verb that is no auxiliary: told from nouns and participles by what stands beside it."""
    word = text.words[at]
    # "stands barefoot and watches the sunset": not the first verb, but the first one we know.
    if before in ("and", "or", "but") or before in AMBIGUOUS_PASTS:
        return None
    pronoun = before in PRONOUNS | {"this"}
    object_follows = follower in OBJECTS
    phrase_follows = object_follows or follower in PREPOSITIONS or not follower[0].isalpha() or is_adverb(follower)
    if word in ("does", "did"):
        return Verb(at, "third" if word == "does" else "past", "do", first)
    third = THIRDS.get(word) or (base_of_third(word) if before in ("he", "she") else None)
    if third:
        known = pronoun or object_follows or before in _NAMED_THINGS
        sure = phrase_follows and (third not in NOUNS or _has_short_subject(text, first))
        return Verb(at, "third", third, first) if known or sure else None
    if word in PASTS and word != "come":
        return Verb(at, "past", PASTS[word], first)
    if base := AMBIGUOUS_PASTS.get(word):
        clear = object_follows and base not in _NAMING and follower != "by" and before not in PREPOSITIONS
        named = phrase_follows and follower != "by" and _has_name_as_subject(text, first)
        past = (pronoun and before != "this") or clear or named
        return Verb(at, "past", base, first) if past and not (word == "used" and follower == "to") else None
    plural = before in PEOPLE or before in PRONOUNS - {"he", "she", "it"}
    return Verb(at, "base", word, first) if word in BASES and plural and phrase_follows else None


_NAMED_THINGS = frozenset(table("function method class module object routine decorator property attribute"))


def is_adverb(word: str) -> bool:
    """Whether it has the look of an adverb that can stand before a verb."""
    return (word.endswith("ly") and len(word) > 4 and word not in _NOT_ADVERBS) or word in ("also", "always", "often")


_NOT_ADVERBS = frozenset(
    table("family early daily supply reply apply assembly italy july rally belly jelly bully friendly elderly only")
)


def _has_short_subject(text: Text, verb: int) -> bool:
    """`A man`, `The young girl`, before a verb in the third person: one thing, and no phrase beside it."""
    subject = text.words[text.start : verb]
    if not 2 <= len(subject) <= 4 or subject[0] not in ("a", "an", "one", "the", "this", "that", "his", "her", "every"):
        return False
    return subject[-1] in PEOPLE_SINGULAR or (subject[0] in ("a", "an", "one", "every") and subject[-1].isalpha())


def _has_name_as_subject(text: Text, verb: int) -> bool:
    """`Alan Jones`: two to four words with capitals, and no other verb that might be the finite one."""
    subject = [token[0] for token in text.tokens[text.start : verb]]
    others = {word for word in text.words[verb + 1 :] if word in BE | MODALS | HAVE.keys() or word in PASTS}
    return 2 <= len(subject) <= 4 and all(word[0].isupper() and word.isalpha() for word in subject) and not others


def is_perfect(text: Text, at: int) -> bool:
    """`has been`, `had already won the`: a participle follows, and is none that stands for an adjective."""
    after = at + 1
    while is_adverb(text.word(after)) or text.word(after) in ("already", "since", "just"):
        after += 1
    word, next_word = text.word(after), text.word(after + 1)
    if word in ("been", "had", "gone", "become", "done", "begun", "come"):
        return True
    if word not in PARTICIPLES and not word.endswith("ed"):
        return False
    return next_word in OBJECTS | PREPOSITIONS | {"and", "that", ""} or not next_word[0].isalpha()


def has_object(text: Text, at: int) -> bool:
    """`has a`, `has brown`, `has two`: what follows is no participle (`has limited`, `has met`)."""
    follower = text.word(at + 1)
    doubt = follower in PARTICIPLES | UNSURE_ADVERBS or follower.endswith(("ed", "en", "ly")) or follower == "got"
    return bool(follower) and follower[0].isalnum() and not doubt
