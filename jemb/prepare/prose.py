"""The words of a text that are prose: what a language can be told by, among code, commands and names.

`stages/language.py` looks at them where a text as a whole is in no allowed language.
"""

from __future__ import annotations

import re

LOOKED_AT = 4000
"""Characters of a text that are searched for prose."""
SENTENCE_SHARE, SHARE = 0.5, 0.7
"""Least share of a text's tokens that are words, where it looks like a sentence and where it does not."""
SENTENCE_WORDS, WORDS = 2, 4
"""Least number of them; letters beyond ASCII tell as much as the look of a sentence."""
_WORD = re.compile(r"""["'“”‘’«»„¿¡(\[]*([^\W\d_]+(?:['’-][^\W\d_]+)*)(["'“”‘’«»)\].,;:!?…]*)""")
_END = re.compile(r"[.!?…]")


def prose(text: str) -> list[str]:
    """The words of a text in Latin letters, with their punctuation, if they are its better part; none of what may be
    code, a command, a name or a single word.

    A word is letters alone, in lower case but for the first (or all in capitals); with a hyphen only where a letter is
    a capital, for `git-rm` is none and `US-Markt` is one. A sentence ends like one, or begins with a capital and goes
    on with a word in lower case.
    """
    tokens = text[:LOOKED_AT].split()
    found = [(token, match) for token in tokens if (match := _WORD.fullmatch(token)) and _is_word(match[1])]
    words = [token for token, _ in found]
    if not words:
        return []
    last = found[-1][1]
    sentence = bool(tokens[-1] == words[-1] and _END.search(last[2])) or (
        tokens[0] == words[0] and found[0][1][1][0].isupper() and any(match[1][0].islower() for _, match in found)
    )
    enough = SENTENCE_WORDS if sentence or not "".join(words).isascii() else WORDS
    share = SENTENCE_SHARE if sentence else SHARE
    return words if len(words) >= enough and len(words) >= share * len(tokens) else []


def _is_word(letters: str) -> bool:
    if "-" in letters:
        return letters != letters.lower()
    return len(letters) == 1 or letters[1:].islower() or letters.isupper()
