"""The stage `teacher`: whose vectors are beside the shards, and what a reader makes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import jemb
from jemb.config import InspectConfig
from jemb.core.errors import InputError
from jemb.core.text import content_hash
from jemb.inspect import inspect
from jemb.mirror import written_to
from jemb.prepare import prepare
from jemb.prepare.engine import job, read
from jemb.prepare.vectors import embeddings
from jemb.shards import Manifest, ShardReader, read_manifest
from jemb.shards.teacher import TeacherVectors
from jemb.tables.transfer import list_tree
from tests.helpers.prepare_tools import TOOLS, bag_of_words

ROWS: list[dict[str, Any]] = [
    {"query": "amber birch", "positives": ["cedar delta", "ember"], "negatives": ["fjord", "amber birch"]},
    {"query": "cedar delta", "positive": "grove heron", "negatives": ["iris", "jade"]},
    {"query": "AMBER  birch", "positive": "ember", "negatives": ["jade grove", "koala lotus"]},
]


class Teacher:
    """The words' bags, with a prompt each before queries and passages. fail_after: calls that go well."""

    fail_after = 10**9
    asked: ClassVar[list[str]] = []

    def __call__(self, name: str) -> Any:
        return self.encode

    def prompts(self, name: str) -> tuple[str, str]:
        return "ask ", "tell "

    def encode(self, texts: Sequence[str]) -> Any:
        type(self).fail_after -= 1
        if self.fail_after < 0:
            raise KeyboardInterrupt
        self.asked.extend(texts)
        return bag_of_words(texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Teacher)

    def __hash__(self) -> int:
        return 0


TAUGHT = replace(TOOLS, encoder=lambda options: Teacher())


def prepared(
    folder: Path, name: str = "out", rows: list[dict[str, Any]] = ROWS, workers: int = 1, **options: Any
) -> Path:
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = jemb.PrepareConfig(
        input=str(folder / "raw"),
        output=str(folder / name),
        stages=["teacher"],
        teacher={"model": "large", **options},
        workers=workers,
    )
    prepare(config, TAUGHT)
    return folder / name / "d"


def vector(teacher: TeacherVectors, text: str, *, query: bool) -> Any:
    return teacher.take(np.array([content_hash(text)]), query=query)[0]


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_each_text_has_the_vector_of_its_side(tmp_path: Path, dtype: str) -> None:
    folder = prepared(tmp_path, dtype=dtype)
    reader = ShardReader(folder)
    assert (reader.manifest.kind, reader.manifest.fields) == ("triplets", ("positives", "teacher"))
    assert np.load(folder / "teacher.vectors.npy").dtype == {"fp16": np.float16, "fp32": np.float32}[dtype]
    teacher = TeacherVectors(folder, reader.manifest)
    assert teacher.width == 64
    within = {"fp16": 1e-3, "fp32": 0}[dtype]
    for sample in reader:
        query = "amber birch" if sample.query == "AMBER  birch" else sample.query  # the first of equal ones
        expected = bag_of_words([f"ask {query}", *(f"tell {text}" for text in sample.texts[1:])])
        found = [vector(teacher, sample.query, query=True)]
        found += [vector(teacher, text, query=False) for text in sample.texts[1:]]
        np.testing.assert_allclose(found, expected, atol=within)
    # A query's text as a passage has another vector, and one that is no passage has none.
    assert not np.array_equal(vector(teacher, "cedar delta", query=True), vector(teacher, "cedar delta", query=False))
    with pytest.raises(InputError, match=r"no vectors of 1 of 1 passages of a step; .* with the stage teacher again"):
        vector(teacher, "koala", query=False)
    more = prepared(tmp_path, "more", [{"query": "koala", "positive": "lemur"}], dtype=dtype)
    parts = [TeacherVectors(more, read_manifest(more)), teacher]
    for text, part in (("lemur", parts[0]), ("cedar delta", teacher)):
        joined = vector(TeacherVectors.joined(parts), text, query=False)
        assert np.array_equal(joined, vector(part, text, query=False))
    shown = inspect(InspectConfig(path=str(folder), samples=0, verify=True))
    assert "3 triplets (with positives, teacher)" in shown
    assert "teacher.vectors.npy" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Distinct texts with a vector of the teacher: 12" in page
    assert "teacher.vectors.npy has" in page


def test_the_bytes_hang_on_nothing_but_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared(tmp_path, "whole")
    monkeypatch.setattr(embeddings, "BLOCK", 2)
    Teacher.asked.clear()
    monkeypatch.setattr(Teacher, "fail_after", 3)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path)
    monkeypatch.setattr(Teacher, "fail_after", 10**9)
    folder = prepared(tmp_path)
    assert len(Teacher.asked) == len(set(Teacher.asked)) == 12, "none is encoded twice"
    for path in whole.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    assert read_manifest(folder).fingerprint == read_manifest(whole).fingerprint
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.slow
def test_other_processes_leave_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared(tmp_path, "whole")
    for module, name, value in ((read, "PIECE_ROWS", 1), (job, "SERIAL_BELOW", 0), (embeddings, "SERIAL_BELOW", 0)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(embeddings, "BLOCK", 3)
    folder = prepared(tmp_path, workers=2)
    for path in whole.glob("teacher.*"):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_behind_a_url_they_are_carried_but_not_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEMB_CACHE", str(tmp_path / "cache"))
    folder, url = prepared(tmp_path), "memory://taught/d"
    with written_to(url) as output:
        shutil.copytree(folder, output, dirs_exist_ok=True)
    there = jemb.PairData(url, objective="pairs")
    assert there.wanted()["d"].fields == ("positives",)
    assert {info.file for info in there.found["d"].manifest.files} <= set(list_tree(url))
    with pytest.raises(InputError, match=r"d is at memory://taught/d: the vectors of its teacher are mapped .* folder"):
        jemb.PairData(url, objective="teach").wanted()


def test_a_labelled_text_alone_is_a_query(tmp_path: Path) -> None:
    folder = prepared(tmp_path, rows=[{"query": "amber", "label": 1}, {"query": "birch", "label": 2}])
    assert len(np.load(folder / "teacher.keys.npy")) == 2


def test_a_teacher_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"teacher\.model is missing; wanted the folder or the Hugging Face name"):
        prepared(tmp_path, model=None)


def test_files_that_have_changed(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    plain = Manifest.from_json(json.loads((folder / "manifest.json").read_text()), "m")
    vectors = folder / "teacher.vectors.npy"
    data = vectors.read_bytes()
    vectors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"teacher\.vectors\.npy: sha256 is .* it has changed"):
        ShardReader(folder).verify()
    vectors.write_bytes(data[:-2])
    with pytest.raises(InputError, match=r"teacher\.vectors\.npy: has \d+ bytes; manifest.json wants"):
        ShardReader(folder)
    without = replace(plain, files=())
    assert without.fingerprint != plain.fingerprint
    with pytest.raises(InputError, match=r"names no teacher\.keys\.npy, the vectors of a teacher"):
        TeacherVectors(folder, without)
    value = json.loads((folder / "manifest.json").read_text())
    value["files"][0]["file"] = "../x"
    with pytest.raises(InputError, match=r"'\.\./x'; wanted a relative name that stays"):
        Manifest.from_json(value, "m")


def test_shards_that_are_prepared_again_say_that_the_vectors_stay_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = prepared(tmp_path)
    prepare(jemb.PrepareConfig(input=str(folder.parent), output=str(tmp_path / "again"), stages=[], workers=1), TAUGHT)
    assert "a teacher's vectors lie beside these shards; they are not taken over (stage teacher)" in caplog.text
