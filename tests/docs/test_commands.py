"""What the README and the pages tell readers to type works: blocks are run on tiny data, in order, a folder a page.

A block that is not run says why in a comment before it (`<!-- not run: REASON -->`); its commands are still checked
against the options that exist. Sizes are made small here, so that a page takes seconds; the options stay those written.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from jemb.app.cli import COMMANDS, main
from jemb.config import describe, option_names
from jemb.config.parse import find_option
from jemb.prepare import registry as stages
from jemb.registry import OBJECTIVES, TASKS
from tests.helpers.blocks import (
    CHECKED,
    OTHER_NAMES,
    PAGES,
    ROOT,
    RUNNABLE,
    Block,
    blocks,
    commands,
    indented_lines,
    shell_lines,
    spans,
)

SMALL = {
    "train": [
        "model.path=null",
        "model.hidden_size=32",
        "model.num_layers=1",
        "model.num_heads=2",
        "model.vocab_size=400",
        "global_batch_size=16",
        "max_steps=4",
        "warmup_steps=1",
        "checkpoint_every=2",
        "workers=0",
    ],
    "prepare": ["workers=1", "consistency.top_k=20", "consistency.max_length=32"],
}
"""Put after the arguments of a command, so that it needs no network and seconds."""
REPLACED = {"train": ("model", "model.hidden_size")}
"""Options left out, as their values stand for something large."""
GROUPS = ("model", "objective", "experiment")
NO_OPTIONS = {"name", "flag", "is_host", "normalize_embeddings", "rank", "scale", "gather_across_devices", "collate_fn"}
"""Words with = in inline code that are no options of ours, but those of other programs or placeholders."""

ANIMALS = ["horse", "wolf", "eagle", "salmon", "spider", "tiger", "rabbit", "dolphin", "beetle", "falcon"]
PLACES = ["forest", "river", "mountain", "desert", "garden", "valley", "island", "harbour", "meadow", "village"]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the raw data and the evaluation files that the pages take for granted."""
    folder = tmp_path_factory.mktemp("world")
    draw = random.Random(0)
    pairs = [
        {
            "query": f"Where did the old {animal} near the {place} sleep on day {draw.randint(1, 28)}?",
            "positive": f"The {animal} slept under a large tree beside the {place}, as it does every night.",
        }
        for animal in ANIMALS
        for place in PLACES
    ]
    draw.shuffle(pairs)
    held_out, pairs = pairs[:15], pairs[15:]
    hard = [{**row, "negatives": [f"No {draw.choice(ANIMALS)} sleeps near a {draw.choice(PLACES)}."]} for row in pairs]
    write(folder / "raw" / "farm.jsonl", pairs)
    write(folder / "raw-triplets" / "hard.jsonl", hard)
    renamed = [{"question": row["query"], "answer": row["positive"]} for row in pairs]
    write(folder / "other-names" / "help.jsonl", renamed)
    entailed = [
        {"query": f"A {animal} is resting by the {place}.", "positive": f"The {animal} is sleeping near the {place}."}
        for animal in ANIMALS
        for place in PLACES
    ]
    write(folder / "entailments" / "nli.jsonl", entailed)
    sts = [
        {"sentence1": row["query"], "sentence2": held_out[number // 2]["positive"], "score": number % 5}
        for number, row in enumerate(held_out)
    ]
    write(folder / "sts.jsonl", sts)
    negations = [
        {"anchor": row["query"], "entailment": row["positive"], "negative": f"It is not so that {row['positive']}"}
        for row in entailed[:20]
    ]
    write(folder / "negation.jsonl", negations)
    beir = folder / "beir"
    write(
        beir / "corpus.jsonl",
        [{"_id": f"d{i}", "title": "", "text": row["positive"]} for i, row in enumerate(held_out)],
    )
    write(beir / "queries.jsonl", [{"_id": f"q{i}", "text": row["query"]} for i, row in enumerate(held_out[:10])])
    (beir / "qrels").mkdir()
    (beir / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(10))
    )
    return folder


@pytest.fixture(scope="session")
def after_readme(world: Path) -> Path:
    """The same after all that the README says: with shards, runs and a model."""
    with contextlib.chdir(world):
        run_page(ROOT / "README.md")
    return world


def to_run(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUNNABLE and not block.reason]


OTHERS = [page for page in PAGES if page.name != "README.md" and to_run(page)]


def test_what_the_readme_says_can_be_typed(after_readme: Path) -> None:
    assert (after_readme / "my-model" / "modules.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_can_be_typed(page: Path, after_readme: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Beginning where the README ends; what a page makes, it makes in a folder of its own."""
    folder = tmp_path / "page"
    shutil.copytree(after_readme, folder, ignore=shutil.ignore_patterns("my-model", "my-project"))
    monkeypatch.chdir(folder)
    run_page(page)


def run_page(page: Path) -> None:
    """All blocks that are run, in order, in the current folder. What a page registers goes with it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    stages.all_stages()
    with patch.dict(stages._REGISTERED), patch.dict(OBJECTIVES.added), patch.dict(TASKS.added):
        run_blocks(page, names)


def run_blocks(page: Path, names: dict[str, Any]) -> None:
    for block in to_run(page):
        try:
            if block.language == "python":
                exec(compile(block.code, block.place, "exec"), names)
            else:
                for line in shell_lines(block.code):
                    run_line(line)
        except BaseException as error:
            error.add_note(f"in {block.place}:\n{block.code}")
            raise


def run_line(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "jemb":
        assert not set(words) & {"|", ">", "&&", ";"}, f"only a plain command can be made small: {line}"
        assert main([words[1], *made_small(words[1], words[2:])]) == 0, line
    elif words[0] == "torchrun":
        at = words.index("jemb.app.train") + 1
        launch = [sys.executable, "-m", "torch.distributed.run", *words[1:at]]
        call([*launch, *made_small("train", words[at:])])
    else:
        call(["bash", "-euo", "pipefail", "-c", line])


def made_small(command: str, arguments: list[str]) -> list[str]:
    left = [word for word in arguments if word.partition("=")[0] not in REPLACED.get(command, ())]
    return [*left, *SMALL.get(command, [])]


def call(words: list[str]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(words, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


SHELL = [
    (block.place, line)
    for page in CHECKED
    for block in blocks(page)
    if block.language == "sh"
    for line in shell_lines(block.code)
]
SHELL += [(str(page.relative_to(ROOT)), line) for page in CHECKED for line in indented_lines(page)]
WRITTEN = [(place, line, *found) for place, line in SHELL for found in commands(line)]


@pytest.mark.parametrize(("place", "line", "command", "arguments"), WRITTEN, ids=[f"{w[0]} {w[2]}" for w in WRITTEN])
def test_options_in_commands_exist(
    place: str, line: str, command: str, arguments: list[str], monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    """Also in blocks that are not run."""
    assert command in COMMANDS, f"{place}: {line}"
    seen: list[Any] = []
    monkeypatch.setattr("jemb.app.cli.run", lambda name, config: seen.append(config))
    required = [name for name, _, default, _ in describe(COMMANDS[command].config) if default == "required"]
    given = [word for word in arguments if word not in ("…", "...")]
    if own := next((word for word in given if word.startswith("--config-dir=")), None):
        given.remove(own)  # the reader's own names
        given = [word for word in given if not word.startswith("experiment=")]
    if not COMMANDS[command].positional:
        given += [f"{name}=x" for name in required if not any(word.startswith(f"{name}=") for word in given)]
    assert main([command, *given]) == 0, f"{place}: {line}\n{capsys.readouterr().err}"
    assert len(seen) == 1


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_text_exist(page: Path) -> None:
    known = {name for command in COMMANDS.values() for name in option_names(command.config)}
    taught = re.findall(r'^@stage\("(\w+)"', page.read_text(), re.MULTILINE)  # stages that the page itself writes
    for span in spans(page):
        for word in span.split():
            if match := re.fullmatch(r"([a-z][\w.]*)=.*", word.strip("'")):
                name = match[1]
                if name.partition(".")[0] in taught:
                    continue
                assert name in {*NO_OPTIONS, *GROUPS, *known} or find_option(known, name), f"{page.name}: `{span}`"


def test_no_exception_outlives_its_use() -> None:
    used = {word.partition("=")[0] for page in CHECKED for span in spans(page) for word in span.split() if "=" in word}
    assert used >= NO_OPTIONS


def test_blocks_are_seen() -> None:
    """No block of shell or Python hides behind another name of its language, and no reason stands before nothing."""
    for page in CHECKED:
        found = blocks(page)
        assert not [block.place for block in found if block.language in OTHER_NAMES], "write ```sh or ```python"
        reasons = len(re.findall("^<!-- not run: ", page.read_text(), re.MULTILINE))
        own = sum(bool(block.reason) for block in found)
        assert reasons <= own, f"{page}: a reason stands before no block"
    assert sum(len(to_run(page)) for page in PAGES) > 15


def test_links_lead_somewhere() -> None:
    """Sphinx checks those inside docs/; these are those between the repository's files."""
    for page in CHECKED:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
