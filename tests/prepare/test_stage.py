"""A stage of somebody else's: 20 lines in a module of its own, from Python and from the command line; and options that
are one data set's own."""

from __future__ import annotations

import json
import pickle
import sys

import pytest

from jemb.app.cli import main
from jemb.core.errors import InputError
from jemb.prepare import prepare
from jemb.prepare import registry as stages
from jemb.prepare.engine import job, read
from jemb.prepare.options import PrepareConfig
from jemb.shards import ShardReader, read_manifest
from tests.helpers.prepare_tools import TOOLS

STAGE = '''
from jemb.config import options
from jemb.prepare import Statistic, Verdict, stage


@options
class ShortConfig:
    """Removal of pairs with few words."""

    words: int = 2
    """Least number of words of each side."""


@stage("short", reasons={"too_short": "a side has few words"}, options=ShortConfig,
       statistics={"words": Statistic("Words of all queries")}, after="exact", advice="they are titles")
def drop_short(rows, options, inputs):
    verdict = Verdict(statistics={"words": sum(len(query.split()) for query in rows.query)})
    for position, sides in enumerate(zip(rows.query, rows.positive)):
        if min(len(side.split()) for side in sides) < options.words:
            verdict.drop(position, "too_short", f"{options.words} wanted")
    return verdict
'''
ROWS = [
    {"query": f"question {number} is long", "positive": "yes" if number % 2 else f"yes, {number}"}
    for number in range(8)
]


@pytest.fixture
def project(tmp_path, monkeypatch, write_jsonl):
    """A folder with the module and a data set, which is the current one; what it registers is forgotten after."""
    (tmp_path / "my_stages.py").write_text(STAGE)
    write_jsonl(tmp_path / "raw" / "a.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    stages.all_stages()
    monkeypatch.setattr(stages, "_REGISTERED", dict(stages._REGISTERED))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_stages", None)


def check(folder):
    manifest = read_manifest(folder)
    counts = {stage.name: stage for stage in manifest.stages}
    assert list(counts) == ["read", "exact", "short"]
    assert counts["short"].dropped == {"too_short": 4}
    assert counts["short"].settings == {"words": 2}
    assert counts["short"].statistics["words"] == 32
    assert [row["note"] for row in counts["short"].statistics["examples"]["too_short"]] == ["2 wanted"] * 4
    assert len(ShardReader(folder)) == 4
    page = (folder.parent / "report.html").read_text()
    assert "a side has few words" in page
    assert "Words of all queries: 32" in page


def test_from_python(project):
    config = PrepareConfig(input="raw", output="out", plugins=["my_stages"], stages=["short", "exact"])
    assert config.short.words == 2
    prepare(config, TOOLS)
    check(project / "out" / "a")


def test_from_python_in_two_processes(project, monkeypatch):
    monkeypatch.setattr(read, "PIECE_ROWS", 4)
    monkeypatch.setattr(job, "SERIAL_BELOW", 0)
    monkeypatch.setenv("PYTHONPATH", str(project), prepend=":")
    config = PrepareConfig(input="raw", output="out", plugins=["my_stages"], stages=["short", "exact"], workers=2)
    prepare(config, TOOLS)
    check(project / "out" / "a")


def test_from_the_command_line(project, capsys):
    assert main(["prepare", "input=raw", "output=out", "plugins=my_stages", "stages=[exact,short]"]) == 0
    check(project / "out" / "a")
    capsys.readouterr()
    assert main(["prepare", "input=raw", "output=more", "stages=[exact,my_stages:drop_short]", "short.words=9"]) == 2
    assert "the filters leave nothing" in capsys.readouterr().err
    assert main(["prepare", "input=raw", "output=x", "plugins=my_stages", "short.wrods=9"]) == 2
    assert "did you mean 'short.words'?" in capsys.readouterr().err
    assert main(["prepare", "input=raw", "output=x", "plugins=no_stages"]) == 2
    assert "no Python module 'no_stages'" in capsys.readouterr().err


def test_a_stage_that_drops_much_says_why_with_examples(project, caplog):
    config = PrepareConfig(input="raw", output="out", plugins=["my_stages"], stages=["short", "exact"])
    with caplog.at_level("WARNING", "jemb"):
        prepare(config, TOOLS)
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said.startswith("a: short drops 4 of 8 rows (50 %); the likely cause: they are titles.")
    assert "sources.a.stages=" in said
    assert len(said.splitlines()) == 4


def test_options_of_one_data_set(project, write_jsonl, capsys):
    write_jsonl(project / "raw" / "b.jsonl", ROWS)
    write_jsonl(project / "raw" / "c.jsonl", ROWS)
    options = ["sources.b.short.words=1", "sources.c.stages=[exact]", "sources.c.language.allowed=[no,de]"]
    command = ["prepare", "input=raw", "plugins=my_stages", "stages=[exact,short]"]
    assert main([*command, "output=out", *options]) == 0
    check(project / "out" / "a")
    found = {name: read_manifest(project / "out" / name) for name in "bc"}
    assert [stage.name for stage in found["b"].stages] == ["read", "exact", "short"]
    assert found["b"].stages[-1].settings == {"words": 1}
    assert found["b"].num_samples == found["c"].num_samples == 8
    assert [stage.name for stage in found["c"].stages] == ["read", "exact"]
    assert found["c"].source["settings"]["stages"] == ["exact"]
    page = (project / "out" / "report.html").read_text()
    assert page.count("<td>words</td>") == 2, "of a, and of b, which has its own"
    capsys.readouterr()
    for wrong, said in {
        "sources.b.short.words=few": "sources.b.short: option 'words': got 'few'",
        "sources.b.short.wrods=1": "sources.b.short.wrods",
        "sources.b.stages=[exat]": "sources.b.stages",
    }.items():
        assert main([*command, "output=other", wrong]) == 2
        assert said in capsys.readouterr().err


def test_configs_with_stages_can_be_copied():
    config = PrepareConfig(input="i", output="o", sources={"a": {"consistency": {"top_k": 7}}}, seed=3)
    again = pickle.loads(pickle.dumps(config))
    assert (again.seed, again.of("a").consistency.top_k, again.of("b").consistency.top_k) == (3, 7, 2)
    assert again.language == config.language


def test_a_stage_needs_a_name_of_its_own():
    with pytest.raises(ValueError, match="has one of that name"):
        stages.stage("exact", reasons={})(lambda rows, options, inputs: None)
    with pytest.raises(InputError, match="unknown option 'nonsense'"):
        PrepareConfig(input="i", output="o", nonsense=1)
    assert json.dumps(list(stages.all_stages())) == json.dumps(
        [
            "generate", "exact", "near_duplicates", "decontaminate", "language", "overlap", "consistency", "negation",
            "mine", "cross_encoder", "teacher",
        ]
    )  # fmt: skip
