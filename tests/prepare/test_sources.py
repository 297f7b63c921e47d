"""Which data sets an input is, what the options make of them, and what is refused before any work."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jemb.app.compose import compose_config
from jemb.core.errors import InputError
from jemb.core.records import Sample
from jemb.prepare.engine.plan import changes, is_origin, origin, plan_all
from jemb.prepare.options import FieldsConfig, PrepareConfig, SourceConfig
from jemb.prepare.registry import all_stages
from jemb.prepare.source.check import check, check_names
from jemb.prepare.source.parts import Summary, parts, read_part
from jemb.prepare.source.record_fields import Row
from jemb.prepare.source.sources import Source, find_sources
from jemb.prepare.stages.language import LanguageConfig
from jemb.shards import write_dataset
from tests.helpers.prepare_tools import TOOLS, write_tar

LINE = b'{"query":"a","positive":"b"}\n'


def find(path, **options) -> dict[str, Source]:
    sources = find_sources(PrepareConfig(**{"input": str(path), "output": "/no/output"} | options))
    assert [source.name for source in sources] == sorted(source.name for source in sources)
    return {source.name: source for source in sources}


def files(source: Source) -> list[str]:
    return [Path(path).name for path in source.paths]


def rows(source: Source) -> list[Row]:
    return [row for part in parts(source) for row in read_part(part, source, Summary()) if isinstance(row, Row)]


def write_files(folder: Path, *names: str, data: bytes = LINE) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


# ---- what is found -------------------------------------------------------------------------------------------------


def test_every_documented_kind_is_found_in_order(tmp_path, caplog):
    write_files(tmp_path, "b.jsonl", "a.csv", "d.e.JSONL.GZ", "c.parquet", "t.tsv.zst", ".hidden.jsonl", "notes.txt")
    write_files(tmp_path, "tars/x-2.tar", "tars/x-1.tar", "tars/.x-0.tar", "web/1.tar.gz", "empty/README", "README")
    write_files(tmp_path, "many/part-2.jsonl", "many/part-10.jsonl.gz", "many/part-1.jsonl", "many/_SUCCESS", "z/a.tsv")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with caplog.at_level(logging.WARNING):
        found = find(tmp_path)
    assert {source.name: source.format for source in found.values()} == {
        "a": "csv",
        "b": "jsonl",
        "c": "parquet",
        "d.e": "jsonl",
        "many": "jsonl",
        "t": "tsv",
        "tars": "tar",
        "web": "tar",
        "z": "tsv",
    }
    assert files(found["tars"]) == ["x-1.tar", "x-2.tar"]
    assert files(found["many"]) == ["part-1.jsonl", "part-10.jsonl.gz", "part-2.jsonl"]
    assert found["many"].where == str(tmp_path / "many")
    assert found["a"].where == str(tmp_path / "a.csv")
    assert "ignored README, empty, notes.txt, pipe.jsonl;" in caplog.text
    assert ".hidden" not in caplog.text
    assert "_SUCCESS" not in caplog.text


def test_one_file_or_one_folder_of_tars_is_a_data_set(tmp_path, monkeypatch):
    write_files(tmp_path, "set/a.tar", "b.jsonl", "c.tar")
    assert list(find(tmp_path / "set")) == ["set"]
    assert list(find(tmp_path / "b.jsonl")) == ["b"]
    assert files(find(tmp_path / "c.tar")["c"]) == ["c.tar"]
    monkeypatch.chdir(tmp_path / "set")
    assert list(find(".")) == ["set"]


def test_the_output_inside_the_input_is_no_source(tmp_path, caplog):
    write_files(tmp_path, "a.jsonl", "out/x.tar")
    assert list(find(tmp_path, output=str(tmp_path / "out"))) == ["a"]
    assert not caplog.text


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([], "no data set in it"),
        (["a.txt"], "no data set in it"),
        (["a.jsonl", "a.csv"], "both be data set 'a'"),
        (["a.jsonl", "a/x.csv"], "both be data set 'a'"),
        (["a/x.csv", "a/y.jsonl"], r"/a: holds x.csv and y.jsonl; wanted files of one kind"),
        (["a/x.tar", "a/y.jsonl"], r"/a: holds x.tar and y.jsonl; wanted files of one kind"),
    ],
)
def test_folders_that_hold_no_clear_data_sets(tmp_path, names, wanted):
    write_files(tmp_path, *names)
    with pytest.raises(InputError, match=wanted):
        find(tmp_path)


def test_a_name_too_long_for_what_lies_beside_it(tmp_path):
    write_files(tmp_path, "é" * 101 + ".jsonl")
    with pytest.raises(InputError, match="wanted at most 200 bytes"):
        find(tmp_path)


def test_missing_path_and_unknown_file(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        find(tmp_path / "nowhere")
    write_files(tmp_path, "a.txt")
    with pytest.raises(InputError, match="unknown kind of file"):
        find(tmp_path / "a.txt")


@pytest.fixture
def shards(tmp_path) -> Path:
    """A folder with what `jemb prepare` leaves: a data set of two shards with other files beside them, and more."""
    folder = tmp_path / "made"
    samples = [Sample(f"{number:09d}", f"q{number}", f"p{number}") for number in range(3)]
    write_dataset(folder / "nli", "nli", samples, 2)
    write_files(folder, "nli/dropped/shard-000000.tar", "nli/old.tar", "nli/unreadable.jsonl")
    return write_files(folder, "b.unreadable.jsonl", "report.html", ".work/x.jsonl")


def test_a_data_set_of_jemb_is_its_shards_and_nothing_else(shards, tmp_path):
    for found in (find(shards / "nli"), find(shards)):
        assert list(found) == ["nli"]
        assert files(found["nli"]) == ["shard-000000.tar", "shard-000001.tar"]
        assert [row.query for row in rows(found["nli"])] == ["q0", "q1", "q2"]
    found = find(None, input=None, sources={"own": SourceConfig(path=str(shards / "nli"))})
    assert files(found["own"]) == ["shard-000000.tar", "shard-000001.tar"]


def test_manifests_of_others_and_damaged_ones(shards, tmp_path):
    write_files(tmp_path / "raw", "manifest.json", "x/manifest.json", data=b'{"files": []}')
    write_files(tmp_path / "raw", "a.jsonl", "x/1.csv")
    assert list(find(tmp_path / "raw")) == ["a", "x"]
    manifest = shards / "nli" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_samples": 3', '"num_samples": 4'))
    with pytest.raises(InputError, match=r"manifest\.json: num_samples is 4"):
        find(shards)


def test_a_folder_of_a_url(tmp_path):
    memory = fsspec.filesystem("memory")
    try:
        for name in ("a.jsonl", "b.csv.gz", "many/1.jsonl", "many/2.jsonl"):
            memory.pipe(f"/raw/{name}", gzip.compress(b"query,positive\nx,y\n") if "csv" in name else LINE)
        found = find("memory://raw")
        assert {source.name: len(source.paths) for source in found.values()} == {"a": 1, "b": 1, "many": 2}
        check(list(found.values()))
        assert [row.query for row in rows(found["many"])] == ["a", "a"]
        assert [row.query for row in rows(find("memory://raw/b.csv.gz")["b"])] == ["x"]
        config = PrepareConfig(input="memory://raw", output="out")
        (file,) = origin(found["a"], config, {})["files"]
        assert (file["file"], file["bytes"]) == ("a.jsonl", len(LINE))
        before = origin(found["a"], config, {})
        memory.pipe("/raw/a.jsonl", LINE.replace(b"b", b"c"))
        assert changes(before, origin(found["a"], config, {}))
    finally:
        memory.rm("/", recursive=True)


def test_a_hugging_face_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"query": ["a"], "positive": ["b"], "n": [1]}).save_to_disk(str(tmp_path / "saved"))
    found = find(f"hf:{tmp_path}/saved")
    check(list(found.values()))
    assert [(row.query, row.positive, row.extra) for row in rows(found["saved"])] == [("a", "b", '{"n":1}')]
    (made_from,) = origin(found["saved"], PrepareConfig(input="x", output="y"), {})["files"]
    assert made_from["file"] == "hf:saved"
    assert made_from.keys() == {"file", "config", "split", "fingerprint", "rows"}
    with pytest.raises(
        InputError, match=r"there is no column 'text' \(fields.query\).*fields there: query, positive, n"
    ):
        check(list(find(f"hf:{tmp_path}/saved", fields=FieldsConfig(query="text")).values()))
    with pytest.raises(InputError, match="hf:no/such"):
        check(list(find("hf:no/such").values()))


# ---- options of single data sets -----------------------------------------------------------------------------------


def options(*overrides: str) -> PrepareConfig:
    return compose_config("prepare", PrepareConfig, ["output=o", *overrides])


def test_sources_on_the_command_line():
    config = options(
        "input=raw",
        "sources.a.path=raw (1)/a=1.jsonl",
        "sources.msmarco.v2.fields.query=user query",
        "sources.msmarco.v2.fields.negatives=hard, harder",
        "sources.x.path.query.path=p",
        "sources.a.constants.domain=news, sport",
        "sources.a.constants.path=null",
        "sources.a.limit=1000",
        "sources.Größe 2.limit=null",
        "fields.positive=body",
    )
    plain = [item.name for item in fields(SourceConfig)]
    found = {
        name: SourceConfig(**{option: getattr(source, option) for option in plain})
        for name, source in config.sources.items()
    }
    assert found == {
        "a": SourceConfig(path="raw (1)/a=1.jsonl", constants={"domain": "news, sport", "path": "null"}, limit=1000),
        "msmarco.v2": SourceConfig(fields={"query": "user query", "negatives": "hard, harder"}),
        "x.path.query": SourceConfig(path="p"),
        "Größe 2": SourceConfig(),
    }
    assert config.fields.positive == "body"


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("sources.a.pth=x", "unknown option 'sources.a.pth' (did you mean 'sources.a.path'?)"),
        ("sources.a.fields.qery=x", "unknown option 'sources.a.fields.qery'"),
        ("sources.a.fields.query=positive", "sources.a.fields: fields.query and fields.positive are both 'positive'"),
        ("source.a.path=x", "(did you mean 'sources.a.path'?)"),
        ("sources.a.constants=x", "unknown option 'sources.a.constants'"),
        ("sources.a=x.jsonl", "(did you mean 'sources.a.path'?)"),
        ("sources=x", "option 'sources': got x; give sources.NAME.path=… for each NAME"),
        ("sources.a.path=", "option 'sources.a.path' is empty"),
        ("sources.a.limit=many", "option 'sources.a.limit': got 'many'"),
        ("sources.a.limit=0", "option 'sources.a.limit': got 0"),
        ("sources.a.limit=1.5", "option 'sources.a.limit': got 1.5"),
        ("fields.query=positive", "fields.query and fields.positive are both 'positive'"),
        ("fields.negative=query", "fields.query and fields.negative are both 'query'"),
    ],
)
def test_mistakes_in_options_of_sources(override, wanted):
    with pytest.raises(InputError) as error:
        options("input=raw", override)
    assert wanted in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_there_must_be_something_to_prepare():
    for overrides in ([], ["sources.a.limit=3"]):
        with pytest.raises(InputError, match=r"nothing to prepare: give input=… or sources.NAME.path=…"):
            find_sources(options(*overrides))
    assert options("sources.a.path=x").input is None


def test_a_mapping_from_a_file_of_values():
    """As YAML or Python give it: nested."""
    values = {"output": "o", "sources": {"a": {"path": "p", "fields": {"query": "q"}, "constants": {"x": "y"}}}}
    assert PrepareConfig(**values).sources["a"].fields == {"query": "q"}
    with pytest.raises(InputError, match=r"unknown option 'sources.a.limt' \(did you mean 'sources.a.limit'"):
        PrepareConfig(**{"output": "o", "sources": {"a": {"path": "p", "limt": 3}}})


def test_options_of_one_source_and_of_all(tmp_path, write_jsonl):
    record = {"title": "t", "body": "b", "text": "x", "id": 1}
    write_jsonl(tmp_path / "raw" / "a.jsonl", [record] * 3)
    write_jsonl(tmp_path / "raw" / "b.jsonl", [record] * 3)
    write_jsonl(tmp_path / "other" / "part-1.jsonl", [record] * 3)
    write_jsonl(tmp_path / "other" / "part-2.jsonl", [record] * 3)
    found = find(
        tmp_path / "raw",
        fields=FieldsConfig(query="title", positive="body"),
        sources={
            "b": SourceConfig(fields={"positive": "text"}, constants={"domain": "news"}, limit=2),
            "c": SourceConfig(path=str(tmp_path / "other"), limit=4),
            "d": SourceConfig(path=f"file://{tmp_path}/other/part-1.jsonl"),
        },
    )
    assert {name: len(rows(source)) for name, source in found.items()} == {"a": 3, "b": 2, "c": 4, "d": 3}
    assert {name: rows(source)[0][1:5] for name, source in found.items()} == {
        "a": ("t", "b", (), '{"text":"x","id":1}'),
        "b": ("t", "x", (), '{"body":"b","id":1,"domain":"news"}'),
        "c": ("t", "b", (), '{"text":"x","id":1}'),
        "d": ("t", "b", (), '{"text":"x","id":1}'),
    }


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ({"news": SourceConfig(limit=1)}, r"sources.news: no data set 'news'.*did you mean 'new'.*there: new, old"),
        ({"x": SourceConfig(limit=1)}, r"Give sources.x.path=… for one that is elsewhere"),
        ({"new": SourceConfig(path="{raw}/old.jsonl")}, r"sources.new.path: .*new.jsonl is a data set 'new' too"),
        ({"a/b": SourceConfig(path="{raw}/old.jsonl")}, r"'a/b' cannot be the name of a data set"),
        ({".a": SourceConfig(path="{raw}/old.jsonl")}, r"'.a' cannot be the name of a data set"),
        ({"a": SourceConfig(path="{raw}/no.jsonl")}, r"raw/no.jsonl: no such file or folder"),
        ({"a": SourceConfig(path="{raw}/..")}, r"raw/..: not one data set"),
        ({"a": SourceConfig(path="{raw}/notes.txt")}, r"notes.txt: unknown kind of file"),
        ({"old": SourceConfig(constants={"query": "x"})}, r"sources.old.constants.query: every sample has a field"),
    ],
)
def test_sources_that_contradict_the_input(tmp_path, sources, wanted):
    raw = write_files(tmp_path / "raw", "new.jsonl", "old.jsonl", "notes.txt")
    given = {
        name: replace(source, path=source.path and source.path.format(raw=raw)) for name, source in sources.items()
    }
    with pytest.raises(InputError, match=wanted):
        find(raw, sources=given)


# ---- the first look ------------------------------------------------------------------------------------------------


def complaint(path, **settings) -> str:
    with pytest.raises(InputError) as error:
        check(list(find(path, **settings).values()))
    return str(error.value)


def test_good_sources_pass(tmp_path):
    write_files(tmp_path, "a.jsonl", "many/2.jsonl")
    write_files(tmp_path, "many/1.jsonl", data=b"")  # as Spark leaves them
    write_files(tmp_path, "b.csv", "more/2.csv", data=b"query,positive\na,b\n")
    write_files(tmp_path, "more/1.csv", data=b"query,positive\n")
    write_files(tmp_path, "more/0.csv", data=b"")
    pq.write_table(pa.table({"query": ["a"], "positive": ["b"]}), tmp_path / "c.parquet")
    write_tar(tmp_path / "tars" / "1.tar", [("x.json", LINE)])
    (tmp_path / "tars" / "2.tar.gz").write_bytes(gzip.compress((tmp_path / "tars" / "1.tar").read_bytes()))
    check(list(find(tmp_path).values()))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \r\n" * 100_000),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.csv", b""),
        ("a.csv", b"query,positive\n\n"),
        ("many/1.jsonl", b"\n"),
    ],
)
def test_sources_without_rows(tmp_path, name, data):
    write_files(tmp_path, name, data=data)
    assert complaint(tmp_path).startswith(f"{tmp_path}/{name}: holds no rows; wanted at least one")


def test_tables_without_rows(tmp_path):
    pq.write_table(pa.table({"query": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "a.parquet: holds no rows" in complaint(tmp_path)
    write_tar(tmp_path / "b" / "1.tar", [])
    assert "1.tar: holds no rows" in complaint(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        ("a.jsonl.gz", LINE, "a.jsonl.gz: damaged or truncated gzip"),
        ("a.jsonl.zst", LINE, "a.jsonl.zst: damaged or truncated zstd"),
        ("a.csv.gz", b"query,positive\n", "a.csv.gz: damaged or truncated gzip"),
        ("a.parquet", b"PAR1 and nothing", "a.parquet: damaged or truncated Parquet"),
        ("tars/1.tar", b"x" * 2000, "1.tar: damaged or cut off after byte 0"),
        ("a.csv", b"query;positive\na;b\n", "it has ';' between its names: wanted ',' in .csv"),
        ("a.csv", b"query\tpositive\na\tb\n", r"it has '\t' between its names: wanted ',' in .csv, a tab in .tsv"),
        ("a.tsv", b"query,positive\na,b\n", "it has ',' between its names"),
        ("a.csv", "query,positive\na,b\n".encode("utf-16"), "a.csv: is UTF-16; wanted UTF-8"),
        ("a.jsonl", LINE.decode().encode("utf-16"), "a.jsonl: is UTF-16; wanted UTF-8"),
        ("a.csv", b"query,query\na,b\n", "a.csv: line 1: column 'query' comes twice"),
        ("a.csv", b"query,positve\na,b\n", "no column 'positive' (fields.positive) (did you mean 'positve'?)"),
        ("many/2.csv", b"a,b\nc,d\n", "2.csv: there is no column 'query'"),
    ],
)
def test_sources_that_cannot_be_are_named_before_any_work(tmp_path, name, data, wanted):
    write_files(tmp_path, "0.jsonl", "many/1.csv", data=b"query,positive\na,b\n")
    write_files(tmp_path, "0.jsonl")
    write_files(tmp_path, name, data=data)
    assert wanted in complaint(tmp_path)


def test_a_link_to_nowhere_is_named(tmp_path):
    write_files(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    assert "b.jsonl: no such file or folder" in complaint(tmp_path)


def test_a_file_or_folder_without_permission_is_named():
    with tempfile.TemporaryDirectory() as name:
        folder = write_files(Path(name), "a.jsonl", "b.jsonl", "c/d.jsonl")
        folder.chmod(0o755)
        locked = [folder / "b.jsonl", folder / "c"]
        root = os.geteuid() == 0
        for path in locked:
            mode = path.stat().st_mode
            path.chmod(0)
            if root:  # whom no file refuses
                os.seteuid(65534)
            try:
                message = complaint(folder)
            finally:
                if root:
                    os.seteuid(0)
                path.chmod(mode)
            assert f"{path}: cannot be read (Permission denied)" in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "many/1.jsonl"])
def test_a_wrong_field_name_is_one_message_with_the_right_ones(tmp_path, write_jsonl, name):
    records = [{"title": "a", "positive": "b"}, {"title": "c", "positive": "d"}]
    if name.endswith(".jsonl"):
        write_jsonl(tmp_path / name, records)
    elif name == "a.csv":
        with (tmp_path / name).open("w", newline="") as file:
            table = csv.DictWriter(file, records[0])
            table.writeheader()
            table.writerows(records)
    else:
        pq.write_table(pa.Table.from_pylist(records), tmp_path / name)
    message = complaint(tmp_path, fields=FieldsConfig(query="titel"))
    for part in (name, "'titel' (fields.query)", "did you mean 'title'", "fields there: title, positive"):
        assert part in message
    assert f"sources.{Path(name).parts[0].partition('.')[0]}.fields.query=NAME" in message


def test_a_field_missing_from_some_rows_or_files_only_is_bad_rows(tmp_path, write_jsonl):
    write_jsonl(tmp_path / "many" / "1.jsonl", [{"positive": "b"}])
    write_jsonl(tmp_path / "many" / "2.jsonl", [{"query": "a", "positive": "b"}, {"positive": "b"}])
    found = find(tmp_path)
    check(list(found.values()))
    assert len(rows(found["many"])) == 1


def test_the_last_look(tmp_path, caplog):
    (source,) = find(write_files(tmp_path, "a.jsonl")).values()
    check_names(source, Counter(query=1, positive=1))
    check_names(source, Counter())
    with pytest.raises(InputError, match=r"a\.jsonl: no row has the field 'query' \(fields.query\)"):
        check_names(source, Counter(qury=1, positive=1))
    assert not caplog.text
    check_names(replace(source, fields=FieldsConfig(negatives="hard")), Counter(query=1, positive=1, negatives=1))
    assert "no row has the field 'hard' (fields.negatives)" in caplog.text


# ---- what a data set was made from ---------------------------------------------------------------------------------


def test_identity_is_content_and_the_settings_that_count(tmp_path):
    write_files(tmp_path / "raw", "a.jsonl")

    def made(folder="raw", **settings):
        config = PrepareConfig(**{"input": str(tmp_path / folder), "output": "o", "stages": ["exact"]} | settings)
        (source,) = find_sources(config)
        return json.loads(json.dumps(plan_all(config, [source], TOOLS)[0].made_from))

    first = made()
    assert is_origin(first)
    digest = hashlib.sha256(LINE).hexdigest()
    assert first["files"] == [{"file": "a.jsonl", "bytes": len(LINE), "sha256": digest}]
    (tmp_path / "raw").rename(tmp_path / "moved")
    assert made("moved", workers=7, max_unreadable=0.5, overwrite=True) == first
    # Stages that do not run do not matter; every other difference is named.
    assert made("moved", language=LanguageConfig(allowed=["de"])) == first
    for settings, wanted in (
        ({"seed": 1}, "seed was 0, now 1"),
        ({"fields": FieldsConfig(negative="n")}, "fields.negative was 'negative', now 'n'"),
        ({"sources": {"a": SourceConfig(fields={"negative": "n"})}}, "fields.negative was"),
        ({"sources": {"a": SourceConfig(limit=5)}}, "limit was None, now 5"),
        ({"sources": {"a": SourceConfig(constants={"x": "y"})}}, "constants.x was None, now 'y'"),
        ({"stages": ["language", "exact"]}, "stages was ['exact'], now ['exact', 'language']"),
    ):
        assert any(wanted in change for change in changes(first, made("moved", **settings))), settings
    write_files(tmp_path / "moved", "a.jsonl", data=LINE + LINE)
    (change,) = changes(first, made("moved"))
    assert change.startswith(f"a.jsonl was {{'bytes': {len(LINE)}, 'file': 'a.jsonl', 'sha256': ")
    (tmp_path / "moved" / "a.jsonl").rename(tmp_path / "moved" / "a.jsonl.gz")
    assert changes(first, made("moved")) == ["input was ['a.jsonl'], now ['a.jsonl.gz']"]


def test_settings_of_any_stage():
    config = PrepareConfig(input="i", output="o")
    for name, stage in all_stages().items():
        assert not {"batch_tokens", "cache"} & stage.settings(getattr(config, name)).keys()
    assert all_stages()["language"].settings(config.language)["allowed"] == ["en"]
    assert all_stages()["consistency"].settings(config.consistency)["top_k"] == 2


# ---- what is not a plain table -------------------------------------------------------------------------------------


def test_folders_of_save_to_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"query": ["a"], "positive": ["b"]})
    one.save_to_disk(str(tmp_path / "raw" / "one"))
    datasets.DatasetDict(train=one, test=one).save_to_disk(str(tmp_path / "raw" / "two:parts"))
    for place in (tmp_path / "raw", tmp_path / "raw" / "one"):
        found = find(place)
        check(list(found.values()))
        assert {name: [row.query for row in rows(source)] for name, source in found.items()} == {
            name: ["a"] for name in found
        }
    assert list(find(tmp_path / "raw")) == ["one", "two:parts"]


def test_a_manifest_nested_deeply_is_somebody_elses(tmp_path):
    write_files(tmp_path, "a.jsonl", "set/b.jsonl")
    (tmp_path / "set" / "manifest.json").write_text("[" * 100_000)
    assert list(find(tmp_path)) == ["a", "set"]


def test_many_files_in_one_name(tmp_path):
    write_files(tmp_path, "train-000.jsonl", "train-001.jsonl", "train-002.jsonl", "{odd}.jsonl")
    (source,) = find(tmp_path / "train-{000..001}.jsonl").values()
    assert (source.name, [Path(path).name for path in source.paths]) == (
        "train",
        ["train-000.jsonl", "train-001.jsonl"],
    )
    assert len(rows(source)) == 2
    assert list(find(tmp_path / "{odd}.jsonl")) == ["{odd}"]
    with pytest.raises(InputError, match=r"train-003\.jsonl: no such file"):
        find(tmp_path / "train-{002..003}.jsonl")


@pytest.mark.parametrize("name", ["a.json", "a.xlsx", "a.tar.bz2", "a.pkl"])
def test_other_kinds_of_files(tmp_path, caplog, name):
    write_files(tmp_path, name)
    for place in (tmp_path / name, tmp_path):
        with pytest.raises(InputError, match=rf"{name}; wanted NAME\.jsonl|{name}: unknown kind of file; wanted"):
            find(place)
    write_files(tmp_path, "b.jsonl")
    find(tmp_path)
    assert f"ignored {name}; wanted NAME.jsonl" in caplog.text
    with pytest.raises(InputError, match="pipe:cat x: would run a command"):
        find("pipe:cat x")
