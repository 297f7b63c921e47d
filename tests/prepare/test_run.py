"""The runner: counts, bytes that depend on input and settings only, what is skipped, refused and kept on failure."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import logging
import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jemb.core.errors import InputError
from jemb.core.folders import alone
from jemb.core.records import Sample
from jemb.prepare import Tools, prepare, summary_table
from jemb.prepare.engine import run
from jemb.prepare.options import FieldsConfig, PrepareConfig
from jemb.prepare.stages.consistency import ConsistencyConfig
from jemb.prepare.stages.decontaminate import DecontaminateConfig
from jemb.prepare.stages.exact import ExactConfig
from jemb.prepare.stages.language import LanguageConfig
from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig
from jemb.shards import ShardReader, open_datasets, read_manifest, write_dataset
from tests.helpers.prepare_tools import TOOLS, bag_encoder, no_model, write_tar

NO_TOOLS = Tools(no_model, no_model, no_model)
WORDS = [
    "river",
    "mountain",
    "garden",
    "window",
    "teacher",
    "winter",
    "music",
    "market",
    "bridge",
    "letter",
    "kitchen",
    "summer",
    "island",
    "doctor",
    "animal",
    "village",
    "morning",
    "bottle",
    "ticket",
    "silver",
    "engine",
    "captain",
    "forest",
    "picture",
    "machine",
    "dinner",
    "orange",
    "castle",
]


def pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """English-looking pairs; some exact, some near duplicates, some German, some that do not match."""
    chosen = random.Random(seed)
    records: list[dict[str, str]] = []
    for number in range(count):
        a, b, c = chosen.sample(WORDS, 3)
        topic = f"the {a} and the {b} behind the {c} number {number}"
        record = {
            "query": f"What should we know about {topic}?",
            "positive": f"This is what is known about {topic} today.",
        }
        kind = chosen.random()
        if records and kind < 0.1:
            record = {name: text.upper() for name, text in chosen.choice(records).items()}
        elif records and kind < 0.2:
            record = {name: text + "!!" for name, text in chosen.choice(records).items()} | {"positive": "This is new."}
            record["positive"] = chosen.choice(records)["positive"] + " Indeed."
        elif kind < 0.3:
            record["positive"] = f"Das ist alles, was wir heute über den Fluss und den Berg Nummer {number} wissen."
        elif kind < 0.4:
            record["positive"] = "Something else is known about a very different place in the world."
        records.append(record)
    return records


@pytest.fixture
def make(tmp_path):
    """make(**options) runs prepare on tmp_path/in to tmp_path/out and gives manifests by name."""

    def go(tools=TOOLS, **options):
        config = PrepareConfig(
            **{"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "workers": 1} | options
        )
        return {manifest.name: manifest for manifest in prepare(config, tools)}

    return go


def dropped_rows(folder: Path):
    """Rows of `folder` with what was written about each."""
    return [{"key": row.key, "query": row.query, "positive": row.positive, **row.extra} for row in ShardReader(folder)]


def tree(folder: Path) -> dict[str, bytes]:
    """All files of finished data sets below `folder` by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def check_counts(manifest, read):
    """In = kept + dropped, at every stage."""
    left = read
    for stage in manifest.stages:
        left -= sum(stage.dropped.values())
        assert stage.kept == left, stage.name
    assert manifest.num_samples == left


# ---- the whole way -------------------------------------------------------------------------------------------------


def test_all_stages_count_and_write_what_is_left(tmp_path, write_jsonl, make):
    records = pairs(300)
    records.append({"query": "", "positive": "x"})
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    manifest = make(keep_dropped=True, shard_samples=50)["a"]
    assert [stage.name for stage in manifest.stages] == ["read", "exact", "near_duplicates", "language", "consistency"]
    reasons = Counter()
    for stage in manifest.stages:
        reasons.update({reason: count for reason, count in stage.dropped.items() if count})
    assert set(reasons) == {"empty", "duplicate", "near_duplicate", "language:de", "consistency"}
    check_counts(manifest, 301)
    reader = open_datasets(tmp_path / "out")["a"]
    reader.verify()
    assert len(reader.manifest.shards) == -(-len(reader) // 50)
    kept = {row.key: row for row in reader}
    for key, row in kept.items():
        assert (row.query, row.positive) == tuple(records[int(key)].values())
    # Each row is either in the shards or, with its reason, among the dropped ones.
    dropped = dropped_rows(tmp_path / "out" / "a" / "dropped")
    assert Counter(row["reason"] for row in dropped) == reasons
    assert sorted([*kept, *(row["key"] for row in dropped)]) == [f"{number:09d}" for number in range(301)]
    for row in dropped:
        assert {"query": row["query"], "positive": row["positive"]} == records[int(row["key"])]
    assert {row["stage"] for row in dropped} == {"exact", "near_duplicates", "language", "consistency"}
    # Shuffled: hardly any neighbours are neighbours in the source.
    keys = [int(row.key) for row in reader]
    assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(keys)) < 0.1 * len(keys)


def test_stages_run_in_the_papers_order_and_only_those_chosen(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(30))
    manifest = make(stages=["language", "exact"], tools=NO_TOOLS)["a"]
    assert [stage.name for stage in manifest.stages] == ["read", "exact", "language"]
    assert [stage.name for stage in make(stages=[], overwrite=True)["a"].stages] == ["read"]
    assert read_manifest(tmp_path / "out" / "a").num_samples == 30


def test_settings_reach_their_stages(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(200))

    def dropped(stage, **options):
        manifest = make(stages=[stage], overwrite=True, **options)["a"]
        given = dataclasses.asdict(options[stage])
        assert manifest.stages[1].settings == {name: given[name] for name in manifest.stages[1].settings}
        assert set(given) - set(manifest.stages[1].settings) <= {"batch_tokens", "cache"}
        return sum(manifest.stages[1].dropped.values())

    def near(threshold):
        return dropped("near_duplicates", near_duplicates=NearDuplicatesConfig(threshold=threshold))

    def consistent(top_k):
        return dropped("consistency", consistency=ConsistencyConfig(top_k=top_k))

    assert near(1.0) < near(0.8) < near(0.5)
    assert consistent(20) < consistent(2) < consistent(1)
    make(stages=["language"], overwrite=True, language=LanguageConfig(allowed=["de"], sides="positive"))
    assert all("das ist alles" in row.positive.lower() for row in ShardReader(tmp_path / "out" / "a"))


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_or_the_order_files_are_found(tmp_path, write_jsonl, make, monkeypatch):
    for name in ("a", "b"):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", pairs(100, seed=ord(name)))
    monkeypatch.setattr("jemb.prepare.engine.read.PIECE_ROWS", 16)
    make(output=str(tmp_path / "one"), keep_dropped=True)
    monkeypatch.setattr("jemb.prepare.engine.job.SERIAL_BELOW", 0)
    monkeypatch.setattr(Path, "iterdir", lambda path, real=Path.iterdir: iter(sorted(real(path), reverse=True)))
    make(output=str(tmp_path / "two"), keep_dropped=True, workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    # Nor on how the rows were cut into pieces, but for the shards of what was dropped.
    monkeypatch.undo()
    make(output=str(tmp_path / "three"))
    for name in ("a", "b"):
        fingerprints = [read_manifest(tmp_path / where / name).fingerprint for where in ("one", "three")]
        assert fingerprints[0] == fingerprints[1]
    assert set(tree(tmp_path / "one")) >= {"a/shard-000000.tar", "b/manifest.json", "b/dropped/manifest.json"}


def test_the_seed_decides_the_order_only(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(50))
    orders = []
    for seed in (0, 0, 1):
        make(output=str(tmp_path / f"out{len(orders)}"), seed=seed, stages=["exact"])
        orders.append([row.key for row in ShardReader(tmp_path / f"out{len(orders)}" / "a")])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


@pytest.mark.slow
@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(*[st.sampled_from(["", "a", "A ", "b b", "c", "ein Hund bellt im Garten"])] * 2),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.sampled_from(["not json", '{"query": 1, "positive": "b"}', '{"positive": "b"}']), max_size=3),
)
def test_counts_add_up_for_any_rows(tmp_path_factory, rows, bad):
    folder = tmp_path_factory.mktemp("any")
    lines = [json.dumps({"query": query, "positive": positive}) for query, positive in rows] + bad
    (folder / "a.jsonl").write_text("\n".join(lines))
    config = PrepareConfig(input=str(folder / "a.jsonl"), output=str(folder / "out"), max_unreadable=1, workers=1)
    try:
        (manifest,) = prepare(config, TOOLS)
    except InputError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "leave nothing" in message
        return
    assert manifest.stages[0].dropped["unreadable"] == len(bad)
    check_counts(manifest, len(lines))
    assert len({row.key for row in ShardReader(folder / "out" / "a")}) == manifest.num_samples > 0


# ---- triplets and tars ---------------------------------------------------------------------------------------------


def test_triplets(tmp_path, write_jsonl, make):
    records = [
        {"query": "a", "positive": "b", "negative": "c"},
        {"query": "d", "positive": "e", "negatives": ["f", "e"]},
        {"query": "g", "positive": "h"},
        {"query": "i", "positive": "j", "negatives": ["I"]},
    ]
    write_jsonl(tmp_path / "in" / "t.jsonl", records)
    manifest = make(stages=["exact"])["t"]
    assert manifest.kind == "triplets"
    assert [dict(stage.dropped) for stage in manifest.stages] == [
        {"unreadable": 0, "no_negative": 1},
        {"no_negative": 1},
    ]
    check_counts(manifest, 4)
    rows = {row.key[-1]: row.negatives for row in ShardReader(tmp_path / "out" / "t")}
    assert rows == {"0": ("c",), "1": ("f",)}


def test_a_folder_of_webdataset_tars(tmp_path, make):
    write_tar(tmp_path / "in" / "web" / "2.tar", [("x.json", b'{"query":"e","positive":"f","id":3}')])
    write_tar(
        tmp_path / "in" / "web" / "1.tar",
        [
            ("d/k.query.txt", b"a"),
            ("d/k.positive.txt", b"b"),
            ("d/k.jpg", b"\xff\x00"),
            ("l.json", b'{"query":"c","positive":"d"}'),
        ],
    )
    manifest = make(stages=["exact"])["web"]
    rows = sorted((row.key, row.query, row.positive, dict(row.extra)) for row in ShardReader(tmp_path / "out" / "web"))
    assert rows == [("000000000", "a", "b", {}), ("000000001", "c", "d", {}), ("000000002", "e", "f", {"id": 3})]
    assert [file["file"] for file in manifest.source["files"]] == ["1.tar", "2.tar"]


def test_prepared_shards_can_be_prepared_again(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", [{**record, "id": n} for n, record in enumerate(pairs(40))])
    make(stages=["exact"])
    again = make(input=str(tmp_path / "out"), output=str(tmp_path / "again"), stages=["exact"])["a"]
    assert sum(again.stages[1].dropped.values()) == 0
    texts = [
        sorted((row.query, row.extra["id"]) for row in ShardReader(tmp_path / name / "a")) for name in ("out", "again")
    ]
    assert texts[0] == texts[1]


def test_a_truncated_tar_stops_the_job(tmp_path, make):
    write_tar(tmp_path / "in" / "web" / "1.tar", [(f"{n}.json", b'{"query":"a","positive":"b"}') for n in range(50)])
    tar = tmp_path / "in" / "web" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:20_000])
    with pytest.raises(InputError, match=r"1\.tar: breaks off .* unknown number of rows"):
        make(stages=["exact"])


# ---- unreadable rows -----------------------------------------------------------------------------------------------


def test_a_few_unreadable_rows_are_counted_and_listed(tmp_path, write_jsonl, make):
    path = write_jsonl(tmp_path / "in" / "a.jsonl", pairs(99))
    path.write_text(path.read_text() + "not json\n")
    manifest = make(stages=["exact"], max_unreadable=0.01)["a"]
    assert manifest.stages[0].dropped == {"unreadable": 1}
    check_counts(manifest, 100)
    (line,) = (tmp_path / "out" / "a" / "unreadable.jsonl").read_text().splitlines()
    listed = json.loads(line)
    assert listed.pop("reason").startswith("not JSON")
    assert listed == {"file": "a.jsonl", "line": 100, "text": "not json"}


def test_too_many_unreadable_rows_stop_the_job_and_cost_nothing(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(50))
    bad = write_jsonl(tmp_path / "in" / "b.jsonl", pairs(98))
    bad.write_text("one\n" + bad.read_text() + "two\n")
    with pytest.raises(InputError) as error:
        make(stages=["exact"], max_unreadable=0.019)
    message = str(error.value)
    assert "2 of 100 rows cannot be read (2.0%; max_unreadable allows 1.9%)" in message
    assert "b.jsonl line 1: not JSON" in message
    listing = tmp_path / "out" / "b.unreadable.jsonl"
    assert str(listing) in message
    assert [json.loads(line)["line"] for line in listing.read_text().splitlines()] == [1, 100]
    assert list(open_datasets(tmp_path / "out")) == ["a"]
    before = (tmp_path / "out" / "a").stat().st_ino
    # The way out that the message names: finished data sets stay, the listing moves to its data set.
    assert make(stages=["exact"], max_unreadable=0.02)["b"].num_samples > 0
    assert (tmp_path / "out" / "a").stat().st_ino == before
    assert not listing.exists()


def test_a_file_that_breaks_off_stops_the_job_whatever_the_share(tmp_path, write_jsonl, make):
    lines = "".join(json.dumps(record) + "\n" for record in pairs(3000)).encode()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-200])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: breaks off .* unknown number of rows"):
        make(stages=["exact"], max_unreadable=0.5)
    assert make(stages=["exact"], max_unreadable=1)["a"].num_samples > 1000


def test_nothing_to_read(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", [])
    with pytest.raises(InputError, match=r"a\.jsonl: holds no rows"):
        make()
    (tmp_path / "in" / "a.jsonl").write_text("x\ny\n")
    with pytest.raises(InputError, match="2 of 2 rows cannot be read"):
        make(max_unreadable=1)


def test_a_wrong_field_name_stops_before_anything_is_written(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(5))
    with pytest.raises(InputError, match=r"'qery' \(fields.query\).*did you mean 'query'"):
        make(fields=FieldsConfig(query="qery"))
    assert list(tree(tmp_path / "out")) == []


def test_an_option_of_a_stage_that_one_data_set_alone_runs(tmp_path, write_jsonl, make):
    for name in "ab":
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", pairs(20))
    write_jsonl(tmp_path / "tasks.jsonl", pairs(5))
    against = {"against": [str(tmp_path / "tasks.jsonl")]}
    found = make(stages=["exact", "decontaminate"], decontaminate=against, sources={"a": {"stages": ["exact"]}})
    stages = {name: [stage.name for stage in manifest.stages] for name, manifest in found.items()}
    assert stages == {"a": ["read", "exact"], "b": ["read", "exact", "decontaminate"]}


def test_an_option_of_a_stage_that_does_not_run_is_said(tmp_path, write_jsonl, make, caplog):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    make(stages=["exact"], language={"threshold": 0.6})
    assert "language.threshold=0.6 does nothing: language is not among the stages" in caplog.text
    caplog.clear()
    make(stages=["exact"], overwrite=True, sources={"a": {"language": {"threshold": 0.6}}})
    assert "sources.a.language.threshold does nothing: language is not among the stages of a" in caplog.text
    caplog.clear()
    make(stages=["exact"], overwrite=True)
    assert "does nothing" not in caplog.text


# ---- nothing left --------------------------------------------------------------------------------------------------


def test_a_data_set_of_which_nothing_is_left(tmp_path, write_jsonl, make, caplog):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    write_jsonl(tmp_path / "in" / "b.jsonl", [{"query": "x", "positive": "X"}] * 3)
    made = make(stages=["exact"], keep_dropped=True)
    assert "b: the filters leave nothing" in caplog.text
    assert made["b"].num_samples == 0
    assert list(open_datasets(tmp_path / "out")) == ["a"]
    assert not (tmp_path / "out" / "b").exists()
    assert [row["reason"] for row in dropped_rows(tmp_path / "out" / ".b.dropped")] == ["identical"] * 3
    table = summary_table(made.values())
    assert [line.split() for line in table.splitlines()][2] == ["b", "3", "3", "0", "0", "0.0"]


def test_nothing_left_at_all_is_an_error_with_the_table(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "b.jsonl", [{"query": "x", "positive": "X"}] * 3)
    with pytest.raises(InputError, match=r"(?s)leave nothing of any data set.*identical.*b +3 +3 +0"):
        make(stages=["exact"])


# ---- again ---------------------------------------------------------------------------------------------------------


def test_a_finished_data_set_is_not_made_again(tmp_path, write_jsonl, make, caplog):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(50))
    first = make()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with caplog.at_level(logging.INFO):
        second = make(tools=NO_TOOLS, workers=2, max_unreadable=0.5)  # no encoder is needed, and these do not matter
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert "finished before" in caplog.text
    # The same bytes in another place are the same input.
    (tmp_path / "in").rename(tmp_path / "moved")
    assert make(input=str(tmp_path / "moved")) == first


def test_a_new_data_set_is_added_to_finished_ones(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    make(stages=["exact"])
    before = (tmp_path / "out" / "a" / "manifest.json").stat().st_mtime_ns
    write_jsonl(tmp_path / "in" / "b.jsonl", pairs(20, seed=1))
    assert list(make(stages=["exact"])) == ["a", "b"]
    assert (tmp_path / "out" / "a" / "manifest.json").stat().st_mtime_ns == before


def test_changed_settings_or_input_are_refused_and_can_be_overwritten(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(50))
    make(stages=["exact", "near_duplicates"])
    before = tree(tmp_path / "out")
    changed = NearDuplicatesConfig(threshold=0.9)
    with pytest.raises(InputError, match=r"near_duplicates.threshold was 0.8, now 0.9. Give overwrite=true"):
        make(stages=["exact", "near_duplicates"], near_duplicates=changed)
    with pytest.raises(InputError, match=r"seed was 0, now 1"):
        make(stages=["exact", "near_duplicates"], seed=1)
    with pytest.raises(InputError, match=r"stages was \['exact', 'near_duplicates'\], now \['exact'\]"):
        make(stages=["exact"])
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(51))
    with pytest.raises(InputError, match=r"a.jsonl was \{'bytes': \d+.*, now \{'bytes': \d+"):
        make(stages=["exact", "near_duplicates"])
    assert tree(tmp_path / "out") == before
    make(stages=["exact"], overwrite=True)
    assert sum(read_manifest(tmp_path / "out" / "a").stages[0].dropped.values()) == 0
    assert read_manifest(tmp_path / "out" / "a").stages[0].kept == 51


def test_settings_of_stages_that_do_not_run_do_not_matter(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    make(stages=["exact"])
    make(stages=["exact"], language=LanguageConfig(allowed=["de"]), consistency=ConsistencyConfig(encoder="another"))


def test_overwriting_with_nothing_removes_the_old_data_set(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    write_jsonl(tmp_path / "in" / "b.jsonl", pairs(20))
    make(stages=["exact"])
    write_jsonl(tmp_path / "in" / "b.jsonl", [{"query": "x", "positive": "x"}])
    make(stages=["exact"], overwrite=True)
    assert list(open_datasets(tmp_path / "out")) == ["a"]


def test_a_damaged_data_set_is_refused_and_can_be_overwritten(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    make(stages=["exact"])
    whole = tree(tmp_path / "out")
    tar = tmp_path / "out" / "a" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"shard-000000.tar.*overwrite=true"):
        make(stages=["exact"])
    make(stages=["exact"], overwrite=True)
    assert tree(tmp_path / "out") == whole


def test_folders_of_the_user_are_never_replaced(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    write_jsonl(tmp_path / "out" / "a" / "thesis.txt", ["years of work"])
    with pytest.raises(InputError, match="was not made by jemb prepare"):
        make(stages=["exact"], overwrite=True)
    assert (tmp_path / "out" / "a" / "thesis.txt").exists()


def test_shards_of_others_are_never_replaced(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    write_dataset(tmp_path / "out" / "a", "a", [Sample("x", "e", "f")], 1)
    with pytest.raises(InputError, match="was not made by jemb prepare"):
        make(stages=["exact"], overwrite=True)
    assert (tmp_path / "out" / "a" / "shard-000000.tar").exists()


def test_output_that_cannot_be(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    with pytest.raises(InputError, match="is the input folder"):
        make(output=str(tmp_path / "in" / "." / ""))
    with pytest.raises(InputError, match="is a file"):
        make(output=str(write_jsonl(tmp_path / "file", [])))
    with pytest.raises(InputError, match=r"a\.jsonl: is a file"):
        make(output=str(tmp_path / "in" / "a.jsonl"))


def test_a_data_set_that_is_not_in_the_input_is_warned_of(tmp_path, write_jsonl, make, caplog):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    write_jsonl(tmp_path / "in" / "b.jsonl", pairs(20))
    make(stages=["exact"])
    (tmp_path / "in" / "a.jsonl").unlink()
    assert list(make(stages=["exact"])) == ["b"]
    assert "also holds a, which this input does not" in caplog.text


def test_two_runs_at_once_are_refused(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    with alone(tmp_path / "out", "jemb prepare"), pytest.raises(InputError, match="another jemb prepare is at work"):
        make(stages=["exact"])
    make(stages=["exact"])


def test_an_error_on_the_way_keeps_what_was_done(tmp_path, write_jsonl, make, monkeypatch):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(60))
    make(stages=["exact"], output=str(tmp_path / "plain"))
    monkeypatch.setattr(run, "write_shards", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(stages=["exact"])
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [".lock", ".work"]
    monkeypatch.undo()
    monkeypatch.setattr(run, "read", partial(keep_calls, run.read, calls := []))
    make(stages=["exact"])
    assert len(calls) == 1
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")


def keep_calls(function, calls, *arguments):
    calls.append(arguments)
    return function(*arguments)


def test_only_stages_after_a_change_run_again(tmp_path, write_jsonl, make, monkeypatch):
    """A run that stopped in its last stage goes on with other settings of that stage."""
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(60))
    asked = []

    def encoder(name):
        asked.append(name)
        if name == "broken":
            raise InputError("no such encoder")
        return bag_encoder(name)

    tools = dataclasses.replace(TOOLS, encoder=lambda options: encoder)
    with pytest.raises(InputError, match="no such encoder"):
        make(tools, stages=["exact", "consistency"], consistency=ConsistencyConfig(encoder="broken"))
    work = {path.name: path.stat().st_ino for path in (tmp_path / "out" / ".work" / "a").iterdir()}
    monkeypatch.setattr(run, "write_shards", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tools, stages=["exact", "consistency"], consistency=ConsistencyConfig(encoder="good"))
    again = {path.name: path.stat().st_ino for path in (tmp_path / "out" / ".work" / "a").iterdir()}
    kept = {name for name in work if again.get(name) == work[name]}
    assert {name.rpartition("-")[0] for name in kept} == {"read", "exact-0", "exact-1", "consistency"}
    assert {name.rpartition("-")[0] for name in again.keys() - work.keys()} >= {"consistency"}


def test_the_encoder_is_made_only_when_needed(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    make(NO_TOOLS, stages=["exact"])
    with pytest.raises(AssertionError, match="was asked for"):
        make(NO_TOOLS, stages=["exact", "consistency"], output=str(tmp_path / "other"))


def test_duplicates_across_data_sets(tmp_path, write_jsonl, make):
    records = pairs(30)
    write_jsonl(tmp_path / "in" / "a.jsonl", records[:20])
    write_jsonl(tmp_path / "in" / "b.jsonl", records[10:])
    alone = make(stages=["exact"])
    assert "duplicate_elsewhere" not in alone["b"].stages[1].dropped
    together = make(stages=["exact"], exact=ExactConfig(across=True), output=str(tmp_path / "across"))
    assert together["a"].fingerprint == alone["a"].fingerprint

    def elsewhere(kept):
        return sum(any(same(record, other) for other in kept) for record in records[10:])

    assert together["b"].stages[1].dropped["duplicate_elsewhere"] == elsewhere(records[:20]) >= 10
    check_counts(together["b"], 20)
    # What the first data set holds decides what the second one should be.
    write_jsonl(tmp_path / "in" / "a.jsonl", records[:15])
    with pytest.raises(InputError, match="overwrite=true"):
        make(stages=["exact"], exact=ExactConfig(across=True), output=str(tmp_path / "across"))
    again = make(stages=["exact"], exact=ExactConfig(across=True), output=str(tmp_path / "across"), overwrite=True)
    assert again["b"].stages[1].dropped["duplicate_elsewhere"] == elsewhere(records[:15]) >= 5


def same(one, other):
    return all(one[name].lower() == other[name].lower() for name in one)


def test_evaluation_texts_are_kept_out(tmp_path, write_jsonl, make):
    records = pairs(40)
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    task = tmp_path / "task.txt"
    task.write_text(records[3]["query"].upper() + "\n" + records[7]["positive"] + " indeed\nThe way\n")
    against = DecontaminateConfig(against=[str(task)])
    manifest = make(stages=["decontaminate"], decontaminate=against, keep_dropped=True)["a"]
    rows = {row["key"]: row for row in dropped_rows(tmp_path / "out" / "a" / "dropped")}
    assert {"000000003", "000000007"} <= rows.keys()
    assert manifest.stages[1].dropped == {"evaluation_text": len(rows)}
    assert manifest.stages[1].statistics["evaluation_texts"] == 2
    task.write_text("Nobody has ever written this before\n")
    with pytest.raises(InputError, match=r"decontaminate.texts was"):
        make(stages=["decontaminate"], decontaminate=against)
    with pytest.raises(InputError, match=r"give decontaminate.against="):
        make(stages=["decontaminate"])
    with pytest.raises(ValueError, match=r"against is given, but decontaminate is not among the stages"):
        make(stages=["exact"], decontaminate=against)
    (tmp_path / "short.txt").write_text("Yes\n")
    against = DecontaminateConfig(against=[str(task), str(tmp_path / "short.txt")])
    with pytest.raises(InputError, match=r"no text of at least 3 words in .*short.txt"):
        make(stages=["decontaminate"], decontaminate=against)


def test_the_work_folder_is_gone_in_the_end(tmp_path, write_jsonl, make):
    write_jsonl(tmp_path / "in" / "a.jsonl", pairs(20))
    make()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "a", "report.html"]
