"""The little English that the rule-based edits know: verbs with their forms, and how words are cut and put back.

`negation.py` and the demo's rewording use it. Some seven hundred verbs, no grammar: a word that is not here is unknown.
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


def table(text: str) -> list[str]:
    """The words of a table."""
    return text.split()


def groups(text: str) -> dict[str, list[str]]:
    """`a: b, c` lines, parted by line ends or `;`, as {"a": ["b", "c"]}."""
    entries = (entry.partition(":") for entry in re.split(r"[;\n]", text) if entry.strip())
    return {word.strip(): [other.strip() for other in others.split(",")] for word, _, others in entries}


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
    """The base form of a word that is known to be a verb in the third person; None if it has not the look of one."""
    if word in THIRDS:
        return THIRDS[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return None
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")) else word[:-1]


def head_verb(sentence: str) -> tuple[str, str, str, bool] | None:
    """(adverb with its space, verb in base form, rest, is it third person) where a verb is at the head, else None."""
    match = re.match(r"(?P<adverb>[A-Z][a-z]+ly )?(?P<verb>[A-Za-z]+)(?P<rest> .*)$", sentence, re.DOTALL)
    if not match or match["rest"].startswith((" of ", " - ", " – ")):
        return None
    word, rest = match["verb"].lower(), match["rest"]
    verb = word if word in _DOCSTRING_VERBS else THIRDS.get(word)
    if verb not in _DOCSTRING_VERBS:
        return None
    follower = re.match(r" ([\w-]+)", rest)
    if verb in (NOUNS if word != verb else _NOUNS_AT_HEAD) and not (follower and follower[1] in _AFTER_HEAD):
        return None
    return match["adverb"] or "", verb, rest, word != verb


# Verbs that docstrings start with, and those that are nouns too ("Test class for …", "Set of …").
_DOCSTRING_PURE = table("""
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
_NOUNS_AT_HEAD = frozenset(
    table("""
cache call cast copy count delay filter format hash index list log map mark mask mix name plot process
query quantize request return round sample scale scatter set slice stack test trace use view
""")
)
_AFTER_HEAD = frozenset(
    table("""
a an the this these those its their our all any both each every some one two three which whether if when
that to into from in on up out only new given multiple several True False None and information
""")
)
_DOCSTRING_VERBS = frozenset([*_DOCSTRING_PURE, *_NOUNS_AT_HEAD])

# Verbs of general prose whose form with -s is hardly ever a noun.
_PROSE_VERBS = table("""
abandon accompany accuse achieve acknowledge acquire admire admit adopt advise agree announce appear appoint
approach approve argue arrive ask assassinate assist assume attend attract bake become begin behave believe
belong borrow bring buy carry catch celebrate choose chop come compete complain complete confirm conquer
consist continue contribute convince criticize declare defend depict deserve destroy develop die differ dig
direct disagree disappear discover discuss dismiss dominate earn eat elect eliminate employ encourage enjoy
escort establish evolve exist explain explore express flee forget gather go graduate grow hang happen hate
hear hire illustrate imagine impose improve incorporate incur inform inhabit inspire intend introduce invade
invent invest invite involve juggle kill kneel know lean leave lend listen locate lose maintain marry meet
mention migrate murder nominate observe occupy occur operate oppose organize originate own oversee
participate pay peel persuade portray possess pour praise pretend promote propose protect prove publish
qualify quit realize recall recognize recommend refuse regain reject relate relax relocate rely remain
remember remind replace resemble reside resign resume retain retire reveal ride satisfy say seek seem sell
sing sit ski solve speak spend stir strengthen strum succeed suffer surrender surround survive sweep swim
teach think threaten tow undergo understand unite urge utilize visit wear weigh whisk win
""")
# Verbs whose form with -s is as often a noun.
NOUNS = frozenset(
    table("""
access act address aid aim answer arrest attack attempt award balance base battle block board broadcast
brush build call camp capture cause challenge change charge chase check claim clear clip climb coach
collapse comment compromise conduct contact control cook copy count cover crash crawl cross cry cut dance deal
debate debut defeat delay demand design display dive document doubt download drag draw dream dress drill drink
drive drop dump end escape estimate exchange exercise export extract face factor fall fear feature feed fight
fill film filter finish fire fish fit fix float flow fly focus force form format function fund gain group
guarantee guard guide hand handle head help hide hike hit hold honor hope host hunt import increase increment
index influence insert interest interview joke join judge jump kick kiss label lack land laugh launch lead leap
leave learn lie lift like limit link list live load lock log look love map mark mask match measure merge mix move name
need note notice object offer open order override pack pad paint park part pass pause pet phone photograph pick
pitch place plan plant play plot point pop pose post practice present press print process produce program
project promise protest pull punch purchase push put query question race rain raise range rank reach read
record release remark rename render repair report request rescue reset respect rest result return review
reverse reward rise risk roast rock roll round rule run sail sample save scale scan schedule score search see
select separate serve set shape share shift shoot shop shout show shuffle sign skate skip sleep slice slide
smell smile smoke sort sound span spell split sponsor spray spread stack stage stand star stare start state
stay step stick stop store stretch strike strip struggle study supply support surf surprise survey swap swing
take talk target taste test thank throw tie time toss touch tour trace track trade train transfer trap travel
treat trust turn type update upload use value view vote wait walk want warm wash watch water wave wish
witness wonder work worry wrap write yell yield
""")
)
BASES = frozenset([*_DOCSTRING_VERBS, *_PROSE_VERBS, *NOUNS])
THIRDS = {third_person(verb): verb for verb in sorted({*BASES, "have"})}

# Past forms that are nothing else: `went` is no participle.
_PASTS = """
become became; begin began; choose chose; come came; do did; drink drank; drive drove; eat ate; flee fled; fly flew
forget forgot; give gave; go went; grow grew; hide hid; know knew; ride rode; run ran; see saw; sing sang
speak spoke; swim swam; take took; throw threw; undergo underwent; wear wore; write wrote; fall fell; oversee oversaw
forbid forbade; shake shook; steal stole; tear tore; withdraw withdrew; undertake undertook; overthrow overthrew
"""
# And those that are participles too, beside the regular ones.
_AMBIGUOUS_PASTS = """
bring brought; build built; buy bought; catch caught; dig dug; feed fed; feel felt; fight fought; find found; get got
hang hung; hear heard; hold held; keep kept; lead led; leave left; lend lent; lose lost; make made; meet met; pay paid
say said; seek sought; sell sold; send sent; shoot shot; sit sat; sleep slept; spend spent; stand stood; strike struck
teach taught; tell told; think thought; understand understood; win won; sweep swept; swing swung; stick stuck
"""
_PARTICIPLES = """
been done gone become begun chosen come drunk driven eaten flown forgotten given grown hidden known ridden run seen
sung spoken swum taken thrown undergone worn written fallen overseen forbidden shaken stolen torn withdrawn undertaken
overthrown had cut put set hit hurt let shut quit cost spread split read won risen drawn shown proven broken beaten
"""
_DOUBLED = frozenset(
    table("""
admit chop clip commit emit format infer program span unwrap control cut drag drop fit flip get grab
hit hop hug incur jog log map nod occur pad permit
pet pin plan plot pop prefer quit refer rip rob rub run scan scrub set shop shut sit skip slip slam snap spin split
step stir stop strip strum submit swap swim tap tip transfer trap trim whip win wrap dig put
""")
)
_NO_REGULAR_PAST = frozenset(
    table("""
broadcast cost cut do hit let lie override overwrite put quit read rebuild reset rewrite set shut slide split spread
undo
""")
)


def _stem(verb: str) -> str:
    return verb + verb[-1] if verb in _DOUBLED else verb


def _regular_past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else _stem(verb) + "ed"


def _gerund(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return _stem(verb) + "ing"


def _pairs(text: str) -> dict[str, str]:
    pairs = (entry.split() for entry in re.split(r"[;\n]", text) if entry.strip())
    return {past: verb for verb, past in pairs}


PASTS = _pairs(_PASTS)
"""Past forms that cannot be participles -> base form."""
_irregular = {*PASTS.values(), *_pairs(_AMBIGUOUS_PASTS).values(), *_NO_REGULAR_PAST}
AMBIGUOUS_PASTS = {
    **{_regular_past(verb): verb for verb in sorted(BASES - _irregular)},
    **_pairs(_AMBIGUOUS_PASTS),
}
"""Past forms that may be participles -> base form."""
PARTICIPLES = frozenset([*AMBIGUOUS_PASTS, *table(_PARTICIPLES)])
GERUNDS = frozenset(map(_gerund, BASES - {"interest"}))
