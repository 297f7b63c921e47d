"""The tour is true: what a paragraph names in code stands in one of the files that it links."""

from __future__ import annotations

import re

from tests.helpers.blocks import FENCE, ROOT

LINK = re.compile(r"\]\(\.\./(jemb/[\w/]+\.py)\)")
NAME = re.compile(r"`([A-Za-z_]\w+)`")
OPTIONS = {"micro_batch_size", "conf"}
"""Names that are no code of the files."""


def test_names_are_those_of_the_linked_files() -> None:
    text = FENCE.sub("", (ROOT / "docs" / "tour.md").read_text())
    checked = 0
    for paragraph in text.split("\n\n"):
        files = "\n".join((ROOT / file).read_text() for file in LINK.findall(paragraph))
        for name in set(NAME.findall(paragraph)) - OPTIONS:
            if files:
                assert re.search(rf"\b{name}\b", files), f"{name} is in none of the files of:\n{paragraph}"
                checked += 1
    assert checked > 30
