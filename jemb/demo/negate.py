"""Small rule-based edits of English sentences as docstrings have them.

`negate` turns the meaning round with the fewest words; `reword` keeps the meaning and changes the words. `corpus.py`
makes the negation triplets of the demo with them. The rules know some three hundred verbs and no grammar: where none
fits surely they give None, and the sentence is not used. Which of several fitting rules is taken depends on a hash of
the sentence, so kinds vary, and every run and machine agrees.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def negate(sentence: str) -> str | None:
    """`sentence` with its meaning turned round by an edit of one to three words; None where no rule fits.

    A negation that is there is removed. Else one is inserted, or, one time in three where both can be done, a word
    swapped: an antonym, always/never, all/none, with/without.
    """
    # A second negation beside one that is there would be hard to read: such a sentence only loses it.
    if removed := _remove_negation(sentence):
        return removed
    polar = _results(sentence, _negate_auxiliary, _negate_imperative, _negate_clause)
    lexical = _results(sentence, _swap_quantifier, _swap_with, _swap_antonym)
    prefer_lexical = _choice(sentence, "kind", (False, False, True))
    options = lexical if lexical and (prefer_lexical or not polar) else polar
    return _choice(sentence, "rule", options) if options else None


def reword(sentence: str) -> str | None:
    """`sentence` with the same meaning in other words; None where nothing can be changed.

    Another grammatical form, synonyms, no articles, no aside at the end.
    """
    text = re.sub(r"(,? e\.g\.,? [^.]*|,? i\.e\.,? [^.]*| \([^()]*\))(?=\.?$)", "", sentence)
    text = _change_form(text, sentence)
    text = _WORD.sub(lambda match: _swap(match, _choice(sentence, match["word"], _synonyms(match["word"]))), text)
    if _choice(sentence, "articles", (True, False)):
        text = re.sub(r"(?<=\w )(the|an?) (?=[a-z])", "", text)
    return text if text != sentence else None


def words(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[a-z]+)?", text.lower())


def _table(text: str) -> list[str]:
    return text.split()


def _groups(text: str) -> dict[str, list[str]]:
    """`a: b, c` lines, parted by line ends or `;`, as {"a": ["b", "c"]}."""
    entries = (entry.partition(":") for entry in re.split(r"[;\n]", text) if entry.strip())
    return {word.strip(): [other.strip() for other in others.split(",")] for word, _, others in entries}


def _third_person(verb: str) -> str:
    """`return` -> `returns`, `try` -> `tries`, `fetch` -> `fetches`; of `work out` the first word."""
    first, *rest = verb.split(" ", 1)
    if first == "have":
        first = "has"
    elif re.search(r"(s|x|z|ch|sh|o)$", first):
        first += "es"
    else:
        first = first[:-1] + "ies" if re.search(r"[^aeiou]y$", first) else first + "s"
    return " ".join([first, *rest])


# Verbs that docstrings start with, and those that are nouns too ("Test class for …", "Set of …").
_VERBS = _table("""
accept access accumulate activate adapt add adjust aggregate align allocate allow append apply assert
assign attach attempt broadcast build calculate capture change check choose clean clear clip close
collect combine compare compile compose compress compute concatenate configure connect consider
construct consume contain convert create customize deactivate decide decode decompose decompress
decorate define delete deliver depend derive describe deserialize detach detect determine differentiate
disable discard display divide do download draw drop dump emit enable encode enforce ensure enter escape
estimate evaluate examine exclude execute expand expect export expose extend extract factor fetch fill
find fit flatten flush follow force generate get give guarantee handle hide hold identify ignore
implement import include increment indicate infer inherit initialize inject insert inspect install
instantiate integrate interpolate invoke iterate join keep launch learn load locate look maintain make
manage match merge minimize modify move multiply normalize notify obtain open override overwrite pad
parse perform permit pick place pop populate predict prefer prepare preserve prevent print produce
propagate provide pull push put raise read rebuild receive recompute record recover reduce refer
register remove rename render reorder replace report represent require reset reshape resize resolve
restore retrieve reverse rewrite rotate run save scan schedule search see select send separate serialize
shift show shuffle shut simplify skip solve sort specify split start stop store strip subtract suggest
supply support swap synchronize take tell terminate throw tokenize track transform translate transpose
traverse treat truncate try turn undo unpack unregister unwrap update upload validate verify visit wait
walk warn wrap write yield
""")
_VERBS_AND_NOUNS = _table("""
cache call cast copy count delay filter format hash index list log map mark mask mix name plot process
query quantize request return round sample scale scatter set slice stack test trace use view
""")
_AFTER_VERB = frozenset(
    _table("""
a an the this these those its their our all any both each every some one two three which whether if when
that to into from in on up out only new given multiple several True False None and information
""")
)
_BASES = {*_VERBS, *_VERBS_AND_NOUNS}
_THIRDS = {_third_person(verb): verb for verb in [*_VERBS, *_VERBS_AND_NOUNS, "have"]}

_OPPOSITE: dict[str, str] = {}
for _pair in _table("""
true/false enabled/disabled enable/disable enables/disables include/exclude includes/excludes
included/excluded including/excluding inclusive/exclusive before/after first/last minimum/maximum
min/max minimal/maximal minimize/maximize smallest/largest smaller/larger lowest/highest lower/upper
low/high small/large shortest/longest short/long nearest/farthest left/right start/end beginning/end
open/close opened/closed opens/closes opening/closing add/remove adds/removes added/removed
adding/removing append/prepend increase/decrease increases/decreases increasing/decreasing
ascending/descending positive/negative valid/invalid above/below inside/outside input/output
inputs/outputs read/write reads/writes reading/writing encode/decode encodes/decodes encoding/decoding
encoded/decoded compress/decompress compressed/uncompressed even/odd optional/required equal/unequal
present/absent allow/forbid allows/forbids allowed/forbidden empty/non-empty same/different
similar/dissimilar more/less most/least greater/less internal/external public/private local/global
forward/backward load/save loads/saves loaded/saved import/export imports/exports push/pop known/unknown
supported/unsupported sorted/unsorted directed/undirected weighted/unweighted mutable/immutable
visible/invisible connect/disconnect connected/disconnected dense/sparse synchronous/asynchronous
top/bottom horizontal/vertical absolute/relative static/dynamic discrete/continuous accept/reject
accepts/rejects success/failure successful/unsuccessful row/column rows/columns strict/loose
exact/approximate real/imaginary parent/child full/empty active/inactive linear/nonlinear safe/unsafe
signed/unsigned labeled/unlabeled register/unregister attach/detach pack/unpack wrap/unwrap
numerator/denominator
"""):
    _one, _other = _pair.split("/")
    _OPPOSITE.setdefault(_one, _other)
    _OPPOSITE.setdefault(_other, _one)

# For the verb at the head of a sentence.
_VERB_SYNONYMS = _groups("""
compute: calculate, work out; calculate: compute, work out; return: give back, hand back
create: make, build; make: create; construct: build, create; build: construct, make
generate: produce, create; get: obtain, fetch; retrieve: fetch, get; fetch: retrieve, get
check: test, verify; test: check; verify: check, make sure; validate: check, verify; ensure: make sure
determine: find out, establish; find: locate, look for; convert: turn, transform
transform: convert, turn; perform: carry out, do; run: execute; execute: run; remove: delete, strip
delete: remove; show: display; display: show; plot: draw; draw: plot; print: show; apply: use
evaluate: assess, work out; estimate: approximate, guess; update: refresh, renew; set: assign, define
modify: change, alter; change: alter, modify; replace: substitute, swap; handle: deal with
parse: analyse; provide: supply, offer; merge: combine, join; combine: merge, join
split: divide, break up; select: choose, pick; choose: select, pick; represent: stand for, describe
contain: hold; call: invoke; use: employ, apply; initialize: set up, prepare; register: record
try: attempt; attempt: try; obtain: get; implement: realize; allow: let, permit; read: bring in
write: put down; save: keep, store; store: keep; extract: take out, pull out; predict: forecast
move: shift; reset: clear; raise: throw; wrap: enclose; fill: populate; list: enumerate
produce: generate; decide: determine; search: look; receive: get; send: transmit; start: begin
stop: halt; close: shut; resolve: settle; collect: gather; compare: contrast; define: describe
indicate: tell; insert: put; add: attach, put; write: record; log: record; render: draw; copy: duplicate
solve: work out
""")
# For words anywhere.
_SYNONYMS = _groups("""
generated: produced, created; removed: deleted; provided: given, supplied; given: specified, provided
specified: given, provided; representing: describing; containing: holding; called: invoked
used: employed; using: by means of, with the help of; each: every; every: each; whether: if
helper: auxiliary, utility; utility: helper; multiple: several, many; several: multiple
current: present, actual; directory: folder; folder: directory; dictionary: mapping, dict
dict: dictionary; element: item, entry; elements: items, entries; item: element; items: elements
argument: parameter; arguments: parameters; parameter: argument; parameters: arguments; instance: object
function: routine; corresponding: matching; associated: linked, related; various: different
specific: particular, certain; particular: specific; simple: plain, basic; entire: whole, complete
whole: entire; via: through, by way of; within: inside; about: regarding; also: additionally
fast: quick; unique: distinct; distinct: unique; picture: image; image: picture; text: string
string: text; message: notice; directly: immediately; automatically: by itself; possible: feasible
required: needed, necessary; needed: required; necessary: needed, required; identical: equal; new: fresh
custom: user-defined; information: details, facts; method: routine; collection: group; pair: couple
location: place, position; position: place, location; random: arbitrary; initial: first, starting
total: overall; contents: content; available: accessible; temporary: short-lived; nested: inner
optionally: if wanted; underlying: wrapped; when: whenever; same: identical; between: among
quickly: fast; large: big; error: fault; number: count; values: numbers; wrapper: shell; subset: part
""")

_AUXILIARY = "is|are|was|were|can|could|will|would|should|must|may|might"
_SUBJECT = "function|method|class|module|object|routine|decorator|property|attribute|it|which|that|this|and|who"
# A word of the sentence with the article before it, if any; no identifier, no part of a path or a call.
_WORD = re.compile(r"(?<![\w.`/-])(?P<article>[Aa]n? )?(?P<word>[A-Za-z]+)(?![\w`/(=-]|\.\w)")
_CLAUSE = rf"\b(?P<subject>{_SUBJECT}) (?P<adverb>\w+ly )?(?P<verb>{'|'.join(_THIRDS)})(?= [\w`'\"])"
_FORMS = (
    "{base}",
    "{third}",
    "This {third}",
    "It {third}",
    "Used to {base}",
    "A function that {third}",
    "A way to {base}",
)


def _results(sentence: str, *rules: Callable[[str], str | None]) -> list[str]:
    return [new for rule in rules if (new := rule(sentence)) and new != sentence]


def _choice(sentence: str, what: str, options: Sequence[T]) -> T:
    """One of `options`, by a hash of the sentence and of what is being chosen."""
    digest = hashlib.blake2b(f"{what}\0{sentence}".encode(), digest_size=8).digest()
    return options[int.from_bytes(digest, "big") % len(options)]


def _like(word: str, model: str) -> str:
    """`word` with the capitals of `model`."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if model[0].isupper() else word


def _swap(match: re.Match[str], word: str) -> str:
    """What stands for a match of `_WORD` when its word becomes `word`: the article before it follows."""
    article = match["article"] or ""
    if article and word != match["word"]:
        an = word[0] in "aeiou" and not word.startswith(("uni", "us"))
        article = _like("an" if an else "a", article.strip()) + " "
    return article + _like(word, match["word"])


def _replace(pattern: str, new: Callable[[re.Match[str]], str], sentence: str) -> str | None:
    """`sentence` with the first match replaced, or None without a match."""
    text, count = re.subn(pattern, new, sentence, count=1, flags=re.IGNORECASE)
    return text if count else None


def _remove_negation(sentence: str) -> str | None:
    """`does not raise` -> `raises`, `Do not return` -> `Return`, `isn't` -> `is`, `cannot` -> `can`."""

    def finite(match: re.Match[str]) -> str:
        auxiliary, verb = match["auxiliary"], match["verb"]
        return _like(_third_person(verb.lower()) if auxiliary.lower() == "does" else verb, auxiliary)

    return (
        _replace(r"\b(?P<auxiliary>do|does)(?: not|n't) (?P<verb>[a-z]+)\b", finite, sentence)
        or _replace(r"\b(can)(?:not| not|'t)\b", lambda match: match[1], sentence)
        or _replace(r"\bwon't\b", lambda match: _like("will", match[0]), sentence)
        or _replace(rf"\b({_AUXILIARY}|has|have|had|did)(?:n't| not)\b(?! only)", lambda match: match[1], sentence)
        or _replace(r"(?<!\bor )\bnot (?!only\b|just\b)", lambda match: "", sentence)
    )


def _negate_auxiliary(sentence: str) -> str | None:
    """`is` -> `is not`, `can` -> `cannot`, `it's` -> `it's not`, `has been` -> `has not been`; the first one."""
    perfect = "(?:has|have|had)(?= been )"
    return _replace(
        rf"(?<=[\w)`'\"] )(?:(?P<can>can)|{_AUXILIARY}|{perfect})(?= [\w`'\"(])|\bit's(?= )",
        lambda match: f"{match[0]}not" if match["can"] else f"{match[0]} not",
        sentence,
    )


def _head(sentence: str) -> tuple[str, str, str, bool] | None:
    """(adverb with its space, verb in base form, rest, is it third person) where a verb is at the head, else None."""
    match = re.match(r"(?P<adverb>[A-Z][a-z]+ly )?(?P<verb>[A-Za-z]+)(?P<rest> .*)$", sentence, re.DOTALL)
    if not match or match["rest"].startswith((" of ", " - ", " – ")):
        return None
    word, rest = match["verb"].lower(), match["rest"]
    verb = word if word in _BASES else _THIRDS.get(word)
    follower = re.match(r" ([\w-]+)", rest)
    if verb is None or (verb in _VERBS_AND_NOUNS and not (follower and follower[1] in _AFTER_VERB)):
        return None
    return match["adverb"] or "", verb, rest, word != verb


def _negate_imperative(sentence: str) -> str | None:
    """`Return x` -> `Do not return x`; `Returns x` -> `Does not return x`."""
    head = _head(sentence)
    if head is None:
        return None
    adverb, verb, rest, third = head
    return f"{'Does' if third else 'Do'} not {adverb.lower()}{verb}{rest}"


def _negate_clause(sentence: str) -> str | None:
    """`This function returns x` -> `This function does not return x`, also after `that`, `which`, `it`."""
    return _replace(
        _CLAUSE,
        lambda match: f"{match['subject']} does not {match['adverb'] or ''}{_THIRDS[match['verb'].lower()]}",
        sentence,
    )


def _swap_quantifier(sentence: str) -> str | None:
    """always/never, `all the x` -> `none of the x`, `all x` -> `no x`, `every` -> `not every`, `some x` -> `no x`."""
    swaps = {
        "always": "never",
        "never": "always",
        "everything": "nothing",
        "every": "not every",
        "some": "no",
    }
    return (
        _replace(
            r"\b(?:always|never|everything)\b",
            lambda match: _like(swaps[match[0].lower()], match[0]),
            sentence,
        )
        or _replace(r"\ball(?= of )", lambda match: _like("none", match[0]), sentence)
        or _replace(r"\bnone(?= of )", lambda match: _like("all", match[0]), sentence)
        or _replace(r"\ball(?= (?:the|its|their) )", lambda match: _like("none of", match[0]), sentence)
        or _replace(r"(?<!at )(?<!for )\ball(?= [a-z]+s\b)", lambda match: _like("no", match[0]), sentence)
        or _replace(r"\b(?:some|every)(?= [a-z])", lambda match: _like(swaps[match[0].lower()], match[0]), sentence)
    )


def _swap_with(sentence: str) -> str | None:
    """with <-> without."""
    return _replace(
        r"\bwith(?:out)?(?= )(?! respect\b| regard\b)",
        lambda match: _like("with" if len(match[0]) > len("with") else "without", match[0]),
        sentence,
    )


def _swap_antonym(sentence: str) -> str | None:
    """One word that has an opposite, replaced by it; `a` and `an` before it follow."""
    # A word beside its own opposite ("reading and writing") is part of a list: swapping it says the same.
    no_candidates = {"", *words(sentence)}
    found = [
        match for match in _WORD.finditer(sentence) if _OPPOSITE.get(match["word"].lower(), "") not in no_candidates
    ]
    if not found:
        return None
    match = _choice(sentence, "antonym", found)
    return sentence[: match.start()] + _swap(match, _OPPOSITE[match["word"].lower()]) + sentence[match.end() :]


def _change_form(text: str, sentence: str) -> str:
    """A sentence with a verb at its head, in another form (imperative, third person, with a subject) and verb."""
    head = _head(text)
    # After "Do not" and "Does not" the form carries the negation: leave it.
    if head is None or head[1] == "do":
        return text
    adverb, verb, rest, third = head
    form = _choice(sentence, "form", [form for form in _FORMS if form != ("{third}" if third else "{base}")])
    verb = _choice(sentence, "verb", _VERB_SYNONYMS.get(verb, [verb]))
    new = form.format(base=adverb.lower() + verb, third=adverb.lower() + _third_person(verb)) + rest
    return new[0].upper() + new[1:]


def _synonyms(word: str) -> list[str]:
    return _SYNONYMS.get(word.lower(), [word])
