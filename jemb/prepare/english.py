"""The little English that rules for single sentences need: some 280 verbs, and how words are cut and put back.

`negating.py` and the demo's rewording use it. There is no grammar: a word that is not here is unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

WORD = re.compile(r"(?<![\w.`/-])(?P<article>[Aa]n? )?(?P<word>[A-Za-z]+)(?![\w`/(=-]|\.\w)")
"""A word of a sentence with the article before it, if any; no identifier, no part of a path or a call."""


def words(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[a-z]+)?", text.lower())


def table(text: str) -> frozenset[str]:
    """The words of a table."""
    return frozenset(text.split())


def choice(sentence: str, what: str, options: Sequence[T]) -> T:
    """One of `options`, by a hash of the sentence and of what is being chosen."""
    digest = hashlib.blake2b(f"{what}\0{sentence}".encode(), digest_size=8).digest()
    return options[int.from_bytes(digest, "big") % len(options)]


def like(word: str, model: str) -> str:
    """`word` with the capitals of `model`."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if model[0].isupper() else word[0].lower() + word[1:]


def swap(match: re.Match[str], word: str) -> str:
    """What stands for a match of `WORD` when its word becomes `word`: the article before it follows."""
    article = match["article"] or ""
    if article and word != match["word"]:
        an = word[0] in "aeiou" and not word.startswith(("uni", "us"))
        article = like("an" if an else "a", article.strip()) + " "
    return article + like(word, match["word"])


def third_person(verb: str) -> str:
    """`return` -> `returns`, `try` -> `tries`, `fetch` -> `fetches`; of `work out` the first word."""
    first, *rest = verb.split(" ", 1)
    if first == "have":
        first = "has"
    elif re.search(r"(s|x|z|ch|sh|o)$", first):
        first += "es"
    else:
        first = first[:-1] + "ies" if re.search(r"[^aeiou]y$", first) else first + "s"
    return " ".join([first, *rest])


def base_of_third(word: str) -> str | None:
    """The base form of a verb in the third person; None of a word that has not the look of one."""
    if word in _THIRDS:
        return _THIRDS[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return None
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")) else word[:-1]


def head_verb(sentence: str) -> tuple[str, str, str, bool] | None:
    """(adverb with its space, verb in base form, rest, is it third person) where a verb is at the head, else None."""
    match = re.match(r"(?P<adverb>[A-Z][a-z]+ly )?(?P<verb>[A-Za-z]+)(?P<rest> .*)$", sentence, re.DOTALL)
    if not match or match["rest"].startswith((" of ", " - ", " – ")):
        return None
    word, rest = match["verb"].lower(), match["rest"]
    verb = word if word in _VERBS else _THIRDS.get(word)
    if verb not in _VERBS:
        return None
    follower = re.match(r" ([\w-]+)", rest)
    if verb in (_NOUNS if word == verb else _NOUNS | _NOUNS_WITH_S) and not (follower and follower[1] in _AFTER_HEAD):
        return None
    return match["adverb"] or "", verb, rest, word != verb


# Verbs that docstrings start with: those that are nothing else, whose form with -s may be a noun ("Checks of …"), and
# that may be nouns themselves ("Test class for …", "Set of …").
_NO_NOUNS = table("""
accept accumulate activate adapt add adjust aggregate align allocate allow append apply assert assign attach calculate
choose clean close collect combine compare compile compose compress compute concatenate configure connect consider
construct consume contain convert create customize deactivate decide decode decompose decompress decorate define
delete deliver depend derive describe deserialize detach detect determine differentiate disable discard divide do emit
enable encode enforce ensure enter evaluate examine exclude execute expand expect expose extend fetch find flatten
flush follow generate get give identify ignore implement include indicate infer inherit initialize inject inspect
install instantiate integrate interpolate invoke iterate keep locate maintain make manage minimize modify multiply
normalize notify obtain overwrite parse perform permit populate predict prefer prepare preserve prevent propagate
provide rebuild receive recompute recover reduce refer register remove reorder replace represent require reshape
resize resolve restore retrieve rewrite rotate send serialize shut simplify solve specify subtract suggest synchronize
tell terminate tokenize transform translate transpose traverse truncate try undo unpack unregister unwrap validate
verify visit warn
""")
_NOUNS_WITH_S = table("""
access attempt broadcast build capture change check clear clip display download draw drop dump escape estimate export
extract factor fill fit force guarantee handle hide hold import increment insert join launch learn load look match
merge move open override pad pick place pop print produce pull push put raise read record rename render report reset
reverse run save scan schedule search see select separate shift show shuffle skip sort split start stop store strip
supply support swap take throw track treat turn update upload wait walk wrap write yield
""")
_NOUNS = table("""
cache call cast copy count delay filter format hash index list log map mark mask mix name plot process quantize query
request return round sample scale scatter set slice stack test trace use view
""")
_AFTER_HEAD = table("""
a an the this these those its their our all any both each every some one two three which whether if when that to into
from in on up out only new given multiple several True False None and information
""")
_VERBS = _NO_NOUNS | _NOUNS_WITH_S | _NOUNS
_THIRDS = {third_person(verb): verb for verb in sorted({*_VERBS, "have"})}
