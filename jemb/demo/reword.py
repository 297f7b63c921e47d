"""Rewording of docstring sentences by rule: `corpus.py` makes the anchors of the demo's negation triplets with it.

The other half, the negation itself, is `jemb/prepare/negating.py`, which knows the same verbs.
"""

from __future__ import annotations

import re

from jemb.prepare.english import WORD, choice, head_verb, swap, third_person


def reword(sentence: str) -> str | None:
    """`sentence` with the same meaning in other words; None where nothing can be changed.

    Another grammatical form, synonyms, no articles, no aside at the end. What is chosen depends on a hash of the
    sentence, so kinds vary, and every run and machine agrees.
    """
    text = re.sub(r"(,? e\.g\.,? [^.]*|,? i\.e\.,? [^.]*| \([^()]*\))(?=\.?$)", "", sentence)
    text = _change_form(text, sentence)
    text = WORD.sub(lambda match: swap(match, choice(sentence, match["word"], _synonyms(match["word"]))), text)
    if choice(sentence, "articles", (True, False)):
        text = re.sub(r"(?<=\w )(the|an?) (?=[a-z])", "", text)
    return text if text != sentence else None


def _groups(text: str) -> dict[str, list[str]]:
    """`a: b, c` lines, parted by line ends or `;`, as {"a": ["b", "c"]}."""
    entries = (entry.partition(":") for entry in re.split(r"[;\n]", text) if entry.strip())
    return {word.strip(): [other.strip() for other in others.split(",")] for word, _, others in entries}


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
_FORMS = (
    "{base}",
    "{third}",
    "This {third}",
    "It {third}",
    "Used to {base}",
    "A function that {third}",
    "A way to {base}",
)


def _change_form(text: str, sentence: str) -> str:
    """A sentence with a verb at its head, in another form (imperative, third person, with a subject) and verb."""
    head = head_verb(text)
    # After "Do not" and "Does not" the form carries the negation: leave it.
    if head is None or head[1] == "do":
        return text
    adverb, verb, rest, third = head
    form = choice(sentence, "form", [form for form in _FORMS if form != ("{third}" if third else "{base}")])
    verb = choice(sentence, "verb", _VERB_SYNONYMS.get(verb, [verb]))
    new = form.format(base=adverb.lower() + verb, third=adverb.lower() + third_person(verb)) + rest
    return new[0].upper() + new[1:]


def _synonyms(word: str) -> list[str]:
    return _SYNONYMS.get(word.lower(), [word])
