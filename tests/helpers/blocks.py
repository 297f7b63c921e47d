"""The code blocks of the README and of the pages, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEMPLATE = ROOT / "jemb" / "new" / "template" / "README.md"
CHECKED = [*PAGES, TEMPLATE, ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
"""Also those of which nothing is run here: the options, paths and links in them must exist."""
RUNNABLE = ("sh", "python")
OTHER_NAMES = ("bash", "shell", "console", "zsh", "py", "pycon")
"""Of shell and Python, so that no block goes unseen under another name."""
LAUNCHERS = {"torchrun.sh": "train", "slurm_train.sh": "train", "slurm_prepare.sh": "prepare"}
ENDS = ("|", "||", "&&", ";", "&", ">", ">>", "2>")

FENCE = re.compile(r"^( *)(```+) *([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
REASON = re.compile(r"<!-- not run: ([^>]+) -->\s*$")
REASON_OF_PAGE = re.compile(r"<!-- not run on this page: ([^>]+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block. reason: why it is not run; empty where it is."""

    page: Path
    line: int
    language: str
    code: str
    reason: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All blocks with a language."""
    text = page.read_text()
    of_page = REASON_OF_PAGE.search(text)
    found = []
    for match in FENCE.finditer(text):
        language = match[3].partition(" ")[0]
        if language and language[0] != "{":
            own = REASON.search(text[: match.start()])
            reason = (own or of_page or ["", ""])[1]
            found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, match[4], reason))
    return found


def shell_lines(code: str) -> Iterator[str]:
    """Lines of a shell block, continued ones as one, without comments and empty ones."""
    for line in re.sub(r" *\\\n *", " ", code).splitlines():
        if line.strip() and not line.strip().startswith("#"):
            yield line.strip()


def commands(line: str) -> Iterator[tuple[str, list[str]]]:
    """(command, its arguments) of each `jemb` in a line: by its own name, as a module, or in a launch script."""
    words = shlex.split(line, comments=True)
    for at, word in enumerate(words):
        rest = words[at + 1 :]
        end = next((number for number, item in enumerate(rest) if item in ENDS), len(rest))
        rest = rest[:end]
        if Path(word).name in LAUNCHERS:
            # What is not an option of jemb is one of the launcher.
            yield LAUNCHERS[Path(word).name], [item for item in rest if "=" in item and item[0] != "-"]
        elif word.startswith("jemb.app.") and words[at - 1] == "-m":
            yield word.removeprefix("jemb.app."), rest
        elif word == "jemb" and rest and rest[0].isalpha():
            yield rest[0], rest[1:]


def indented_lines(page: Path) -> Iterator[str]:
    """Commands in blocks that are only indented, where a page has those for what nobody can run at once."""
    text = "\n".join(line[4:] if line[:4] == "    " else "" for line in FENCE.sub("", page.read_text()).splitlines())
    yield from (line for line in shell_lines(text) if line.split()[0] in ("jemb", "torchrun", "srun"))


def spans(page: Path) -> Iterator[str]:
    """Inline code outside of blocks."""
    text = FENCE.sub("", page.read_text())
    yield from re.findall(r"`([^`\n]+)`", text)
