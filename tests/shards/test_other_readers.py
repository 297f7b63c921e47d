"""Whatever reads a file of a run or of a user works, or says which file it is: nothing ends in a traceback."""

from __future__ import annotations

import json
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jemb.app.cli import main
from jemb.config import ExportConfig, ModelConfig
from jemb.core.errors import Failure, InputError
from jemb.core.files import read_json, read_yaml
from jemb.core.parse import check_shape
from jemb.evaluate.run import _is_scores
from jemb.inspect import describe_run
from jemb.lineage import TRAINING, stages_before, stages_of, training_seconds
from jemb.model import make_tiny
from jemb.run_folder import RunFolder
from jemb.shards import open_datasets
from jemb.shards.tokens import Recipe, TokenReader, _open_part, start_tokens, write_part
from tests.helpers.made_shards import make_samples, write_shards

STAGE = {"name": "language", "kept": 3, "dropped": {"empty": 1}, "settings": {"allowed": ["en"]}}
RECORD = {
    "id": "one", "jemb": "0.1.0", "objective": "pairs", "status": "finished", "steps": 2, "max_steps": 2,
    "model_step": 2, "versions": {"torch": "2.9"}, "git_commit": None, "started_from": None,
    "resolved": {"precision": "fp32"},
    "earlier": [{"name": "before", "objective": "pairs", "settings": {}, "seconds": 1.5, "steps": 3}],
    "datasets": {"set": {"num_samples": 3, "kind": "pairs", "share": 1.0, "weight": 1.0, "fingerprint": "f" * 64,
                         "license": None, "stages": [STAGE]}},
    "starts": [{"step": 0, "time": 1.0, "world_size": 1, "device": "cpu", "hardware": "CPU", "strategy": "single"}],
}  # fmt: skip
LINE = {"step": 1, "time": 2.0, "loss": 1.0, "tokens_per_second": 3.0}
EVALUATION = {"step": 1, "time": 2.0, "value": 3.0, "scores": {"sts:a": {"spearman": 3.0}}}
CONFIG = {"objective": "pairs", "model": {"path": None}, "evaluation": {"tasks": ["sts:a"]}}
RAW = [
    b"", b"\0" * 64, b"{", b"\xff\xfe", b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"3", b"null",
    b'"text"', b"[]", b"[3]", b"{}", b'{"a": !!python/object/apply:os.system [id]}', b"a: !!python/object:x.Y {}\n",
    b"a: [\n", b"2024-13-45", b"NaN",
]  # fmt: skip
OTHERS: list[Any] = [None, "x", -1, 2.5, True, [], ["x"], {}, {"x": "y"}, [[]], {"x": {}}, [{"x": 1}]]


def altered(value: Any) -> Iterator[Any]:
    """`value` with one part of it missing, or another thing in its place, in any depth."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            rest = [item for place, item in enumerate(value) if place != key] if isinstance(value, list) else {
                name: item for name, item in value.items() if name != key}  # fmt: skip
            yield rest
            for inner in altered(value[key]):
                copy = value.copy()
                copy[key] = inner
                yield copy
    yield from OTHERS


def survives(read: Callable[[], Any], path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    said = path.name
    try:
        read()
    except (InputError, Failure) as error:
        said = str(error)
    assert path.name in said, f"{said} does not name {path.name}, which is {data[:200]!r}"
    assert len(said) < 2000


def run_of(folder: Path) -> RunFolder:
    run = RunFolder(folder)
    folder.mkdir()
    run.record.write_text(json.dumps(RECORD))
    run.config.write_text(yaml.safe_dump(CONFIG))
    run.metrics.write_text(json.dumps(LINE) + "\n")
    run.evaluations.write_text(json.dumps(EVALUATION) + "\n")
    return run


def test_run_json(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")

    def read() -> None:
        stages_of(run)
        training_seconds(run)
        describe_run(run)

    for data in [*RAW, *(json.dumps(value).encode() for value in altered(RECORD))]:
        survives(read, run.record, data)


@pytest.mark.parametrize("name", ["metrics", "evaluations", "scores"])
def test_lines_and_scores_of_a_run(tmp_path: Path, name: str) -> None:
    run = run_of(tmp_path / "run")
    whole = {
        "metrics": LINE,
        "evaluations": EVALUATION,
        "scores": {"model": {"sha256": ""}, "scores": {"a": {"b": 1.0}}},
    }

    def read() -> None:
        describe_run(run)
        training_seconds(run)

    for data in [*RAW, *(json.dumps(value).encode() for value in altered(whole[name]))]:
        survives(read, getattr(run, name), data + b"\n" + data if name != "scores" else data)
    (run.path / "scores.json").unlink(missing_ok=True)
    (run.path / "scores.json").mkdir()
    assert not _is_scores(run.path / "scores.json")


@pytest.mark.slow
def test_config_yaml(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    for data in [*RAW, *(yaml.safe_dump(value).encode() for value in altered(CONFIG))]:
        survives(lambda: stages_of(run), run.config, data)
    with pytest.raises(InputError, match=r"config\.yaml: not YAML of plain values .*python/object"):
        survives(lambda: run.read_config(), run.config, b"a: !!python/object/apply:os.system [id]") or run.read_config()


def test_training_json(tmp_path: Path) -> None:
    stages = [RECORD | {"name": "one", "seconds": 1.5, "settings": CONFIG}]
    for data in [*RAW, *(json.dumps(value).encode() for value in altered(stages))]:
        survives(lambda: stages_before(str(tmp_path)), tmp_path / TRAINING, data)


def test_the_card_of_any_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in shape can be shown."""
    from jemb.export.card import write_card

    encoder = make_tiny(
        ["a b"], ModelConfig(vocab_size=300, hidden_size=8, num_layers=1, num_heads=1), seed=0, max_length=8
    )
    run = run_of(tmp_path / "run")

    def read() -> None:
        write_card(
            "x", encoder, stages_of(run), ExportConfig(run="r", output="o"), source="s", scores=run.read_scores()
        )

    for value in altered(RECORD):
        survives(read, run.record, json.dumps(value).encode())


def test_manifests_and_indexes(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", "set", make_samples("set", 8))
    manifest = folder / "manifest.json"
    whole = manifest.read_bytes()
    for data in [*RAW, *(json.dumps(value).encode() for value in altered(json.loads(whole)))]:
        survives(lambda: open_datasets(folder), manifest, data)
    manifest.write_bytes(whole)
    index = next(folder.glob("*.idx.npy"))
    kept = index.read_bytes()
    for data in (
        *RAW,
        kept[:-1],
        kept + b"\0",
        kept[:60],
        kept.replace(b"<u8", b"|O8"),
        kept.replace(b"(8,)", b"(-1)"),
    ):
        survives(lambda: [reader.read(0) for reader in open_datasets(folder).values()], index, data)


def test_tokens(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "set", "set", make_samples("set", 2))
    (reader,) = open_datasets(shards).values()
    recipe = Recipe(reader.manifest.fingerprint, "t", 8, "", "")
    folder = tmp_path / "tokens"
    start_tokens(folder, recipe)
    arrays = {"ids": np.arange(8, dtype=np.uint16), "starts": np.array([0, 2, 4, 6, 8]), "hashes": np.arange(4),
              "first": np.array([0, 2, 4], dtype=np.uint32)}  # fmt: skip
    write_part(folder, 0, arrays)
    path = folder / "tokens.json"
    whole = path.read_bytes()
    TokenReader(folder, reader.manifest, recipe).take(np.arange(2), np.zeros(2, np.int64))
    for data in [*RAW, *(json.dumps(value).encode() for value in altered(json.loads(whole)))]:
        survives(lambda: TokenReader(folder, reader.manifest, recipe), path, data)
    path.write_bytes(whole)

    def take() -> None:
        _open_part.cache_clear()
        TokenReader(folder, reader.manifest, recipe).take(np.arange(2), np.ones(2, np.int64))

    others = [np.array(3), np.zeros((2, 2)), np.array([]), np.array([0.5, 1, 2, 3, 4]), np.array(["a"]), np.arange(3)]
    for name in arrays:
        array = folder / f"000000.{name}.npy"
        kept = array.read_bytes()
        for other in others:
            np.save(array, other)
            with pytest.raises(InputError, match=r"000000\.\w+\.npy: .*remove .* and run `jemb tokenize` again"):
                take()
        for data in RAW:
            array.write_bytes(data)
            with pytest.raises(InputError, match=rf"000000\.{name}\.npy: (damaged|cannot be read)"):
                take()
        array.write_bytes(kept)


@pytest.mark.slow
def test_nesting_and_shapes(tmp_path: Path) -> None:
    deep, path = b"[" * 100_000, tmp_path / "any.json"
    path.write_bytes(deep)
    with pytest.raises(InputError, match=r"any\.json: not valid JSON \(nested too deep\)"):
        read_json(path)
    with pytest.raises(InputError, match=r"any\.json: not (valid YAML \(nested too deep\)|YAML)"):
        read_yaml(path)
    with pytest.raises(InputError, match=r"any/way: no such file"):
        read_json(tmp_path / "any" / "way")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_json(tmp_path)
    shape = {"a": [{"b": (int, None), "c?": {str: float}}]}
    check_shape({"a": [{"b": None}, {"b": 1, "c": {"d": 2}}], "more": True}, shape, "x")
    for value, message in [
        ([], "x: it is a list; wanted an object"),
        ({}, "x: it has no field 'a'; wanted one, a list"),
        ({"a": [{"b": 1.5}]}, r"x: a\[0\]\.b is 1.5; wanted a whole number or null"),
        ({"a": [{"b": True}]}, r"x: a\[0\]\.b is True; wanted a whole number or null"),
        ({"a": [{"b": 1, "c": {"d": "e"}}]}, r"x: a\[0\]\.c\.d is 'e'; wanted a number"),
    ]:
        with pytest.raises(InputError, match=message):
            check_shape(value, shape, "x")


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """No file of this process can grow over `size` bytes, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 1000, 20_000])
def test_an_export_to_a_full_disk(tmp_path: Path, size: int, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run")
    config = ModelConfig(vocab_size=2000, hidden_size=32, num_layers=1, num_heads=1)
    make_tiny([f"word{i}" for i in range(500)], config, seed=0, max_length=8).save(run.model)
    with no_room(size):
        assert main(["export", f"run={run.path}", f"output={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert re.search(r"jemb export: \S*out\S*: cannot be written \(File too large\)\. Make room", said)
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
