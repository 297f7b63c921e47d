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
    text = WORD.sub(lambda match: swap(match, _SYNONYMS.get(match["word"].lower(), match["word"])), text)
    if choice(sentence, "articles", (True, False)):
        text = re.sub(r"(?<=\w )(the|an?) (?=[a-z])", "", text)
    return text if text != sentence else None


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split(": ") for pair in " ".join(text.split()).split("; "))


# For the verb at the head of a sentence.
_VERB_SYNONYMS = _pairs("""
compute: calculate; calculate: work out; return: give back; create: make; make: build; construct: build;
build: construct; generate: produce; get: obtain; retrieve: fetch; fetch: retrieve; check: verify; test: check;
verify: check; validate: check; ensure: make sure; determine: find out; find: look for; convert: turn;
transform: convert; perform: carry out; run: execute; execute: run; remove: delete; delete: remove; show: display;
display: show; plot: draw; print: show; apply: use; evaluate: assess; estimate: approximate; update: refresh;
set: define; modify: change; change: alter; replace: substitute; handle: deal with; provide: supply; combine: join;
merge: combine; split: divide; select: choose; call: invoke; use: employ; initialize: set up; obtain: get;
implement: realize; allow: permit; read: bring in; write: put down; save: store; store: keep; extract: pull out
""")
# For words anywhere.
_SYNONYMS = _pairs("""
generated: produced; removed: deleted; provided: given; given: specified; specified: given; containing: holding;
called: invoked; used: employed; using: by means of; each: every; every: each; helper: auxiliary; multiple: several;
current: present; directory: folder; dictionary: mapping; element: item; elements: items; item: element;
argument: parameter; arguments: parameters; parameter: argument; parameters: arguments; function: routine;
corresponding: matching; associated: linked; various: different; specific: particular; simple: plain; entire: whole;
via: through; within: inside; unique: distinct; image: picture; text: string; string: text; possible: feasible;
required: needed; identical: equal; new: fresh; method: routine; collection: group; location: place; random: arbitrary;
initial: first; contents: content; available: accessible; error: fault; number: count; values: numbers; when: whenever
""")
_FORMS = ("{base}", "{third}", "This {third}", "Used to {base}", "A function that {third}", "A way to {base}")


def _change_form(text: str, sentence: str) -> str:
    """A sentence with a verb at its head, in another form (imperative, third person, with a subject) and verb."""
    head = head_verb(text)
    # After "Do not" and "Does not" the form carries the negation: leave it.
    if head is None or head[1] == "do":
        return text
    adverb, verb, rest, third = head
    form = choice(sentence, "form", [form for form in _FORMS if form != ("{third}" if third else "{base}")])
    verb = _VERB_SYNONYMS.get(verb, verb)
    new = form.format(base=adverb.lower() + verb, third=adverb.lower() + third_person(verb)) + rest
    return new[0].upper() + new[1:]
