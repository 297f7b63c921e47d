"""Results at a URL: what is valid there is whole, only changes are copied, and nobody's files are overwritten."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from jemb.app.cli import main
from jemb.core.errors import Failure, InputError
from jemb.mirror import Mirror, local_copy, whole_files, written_file, written_to
from jemb.run_folder import RunFolder
from jemb.shards import cache_home, open_datasets
from jemb.tables import transfer
from tests.helpers.object_store import BUCKET, FaultyProxy

URL = f"s3://{BUCKET}/mirror"


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """A place of its own for each test."""
    return f"{URL}/{request.node.name.translate(str.maketrans('[]', '-_'))}"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def checkpoint(step: int) -> dict[str, str]:
    return {
        f"checkpoints/step-{step:08d}/{name}": f"{name} {step}" for name in ("position.json", "weights", "optimizer")
    }


def run_files(step: int, identity: str = "one") -> dict[str, str]:
    return {
        "run.json": json.dumps({"id": identity, "steps": step}),
        "metrics.jsonl": "line\n" * step,
        "start/modules.json": "[]",
        "start/tokenizer.json": "{}",
        **checkpoint(step),
    }


def read(folder: Path) -> dict[str, str]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if not name.startswith(".")}


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From here on this is another machine."""
    monkeypatch.setenv("JEMB_CACHE", str(tmp_path / "other machine"))


def test_what_makes_valid_is_sent_last(proxy: FaultyProxy, url: str) -> None:
    mirror = Mirror(url)
    write(mirror.folder, {**run_files(3), ".lock": "", "checkpoints/.step-00000004.partial/weights": "half"})
    mirror.push()
    assert transfer.list_tree(url) == {name: len(text) for name, text in run_files(3).items()}
    sent = [
        request.path.partition(url.rpartition("/")[2] + "/")[2] for request in proxy.seen if request.method == "PUT"
    ]
    assert sent[-3:] == ["start/modules.json", "checkpoints/step-00000003/position.json", "run.json"]
    assert set(sent[:-3]) == run_files(3).keys() - set(sent[-3:])


def test_only_changes_are_sent_and_what_is_gone_is_removed(proxy: FaultyProxy, url: str) -> None:
    mirror = Mirror(url)
    write(mirror.folder, run_files(3))
    mirror.push()
    before = len(proxy.seen)
    mirror.push()
    assert len(proxy.seen) == before, "nothing to do"
    write(mirror.folder, {**checkpoint(6), "metrics.jsonl": "line\n" * 6})
    for name in checkpoint(3):
        (mirror.folder / name).unlink()
    Mirror(url).push()
    later = [(request.method, request.path.rpartition("/")[2]) for request in proxy.seen[before:]]
    assert sorted(name for method, name in later if method == "PUT") == [
        "metrics.jsonl", "optimizer", "position.json", "weights",
    ]  # fmt: skip
    assert next(name for method, name in later if method == "DELETE") == "position.json"
    assert [method for method, _ in later].index("DELETE") > max(
        index for index, (method, _) in enumerate(later) if method == "PUT"
    ), "the new one is whole before the old one goes"
    assert transfer.list_tree(url).keys() == read(mirror.folder).keys()


@pytest.mark.parametrize("allowed", range(6))
def test_a_cut_upload_is_never_taken_for_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultyProxy, url: str, allowed: int
) -> None:
    """Cut after each of its requests; another machine gets the checkpoint before it, or the whole new one."""
    mirror = Mirror(url)
    write(mirror.folder, run_files(3))
    mirror.push()
    write(mirror.folder, {**checkpoint(6), "metrics.jsonl": "line\n" * 6})
    sent = 0

    def send(path: Path, place: str) -> None:
        nonlocal sent
        if sent == allowed:
            raise Failure("the line was cut")
        sent += 1
        transfer.send(path, place)

    monkeypatch.setattr("jemb.mirror.send", send)
    monkeypatch.setattr("jemb.mirror.each", lambda work, items: [work(item) for item in items])
    if allowed < 4:
        with pytest.raises(Failure, match=rf"the line was cut\. All of it is in {mirror.folder}"):
            mirror.push()
    else:
        mirror.push()
    elsewhere(monkeypatch, tmp_path)
    found = Mirror(url)
    found.fetch_run()
    run = RunFolder(found.folder)
    assert run.checkpoints()[-1][0] == (3 if allowed < 4 else 6)
    for step, _ in run.checkpoints():
        assert checkpoint(step).items() <= read(found.folder).items()
    assert len(run.metrics.read_text().splitlines()) >= run.checkpoints()[-1][0], "the log is never behind"


def test_the_newer_side_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultyProxy, url: str) -> None:
    one = Mirror(url)
    write(one.folder, run_files(3))
    one.push()
    write(one.folder, checkpoint(6))  # not copied yet
    one.fetch_run()
    assert checkpoint(6).items() <= read(one.folder).items()
    one.push()
    with monkeypatch.context() as patch:
        elsewhere(patch, tmp_path)
        other = Mirror(url)
        assert other.folder != one.folder
        other.fetch_run()
        assert read(other.folder) == read(one.folder)
        before = len(proxy.seen)
        other.push()
        assert len(proxy.seen) == before, "what was fetched is not sent back"
        write(other.folder, {**checkpoint(9), "model/modules.json": "[]"})
        other.push()
    one.fetch_run()
    assert read(one.folder) == read(other.folder)


def test_a_run_that_was_removed_or_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, proxy: FaultyProxy, url: str
) -> None:
    """This machine's folder is put aside, not lost, and not sent there again."""
    mirror = Mirror(url)
    write(mirror.folder, run_files(3))
    mirror.fetch_run()
    assert read(mirror.folder) == run_files(3), "never copied: it goes on"
    mirror.push()
    for name in transfer.list_tree(url):
        transfer.remove(f"{url}/{name}")
    with caplog.at_level(logging.WARNING):
        mirror.fetch_run()
    assert read(mirror.folder) == {}
    (aside,) = mirror.folder.parent.glob(f"{mirror.folder.name}.*")
    assert read(aside) == run_files(3)
    assert f"no longer at its URL; what this machine had of it is now in {aside}" in caplog.text
    write(mirror.folder, run_files(5, "two"))
    mirror.push()
    with monkeypatch.context() as patch:
        elsewhere(patch, tmp_path)
        third = Mirror(url)
        write(third.folder, run_files(9, "three"))
        third.fetch_run()
        assert read(third.folder) == run_files(5, "two")


def test_other_files_at_the_url(proxy: FaultyProxy, url: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    transfer.send(tmp_path / "x", f"{url}/thesis.tex")
    with pytest.raises(InputError, match=rf"output={url}: holds thesis\.tex, which is no part of a run"):
        Mirror(url).fetch_run()
    with (
        pytest.raises(InputError, match=rf"output={url}: holds thesis\.tex, which was not written from"),
        written_to(url),
    ):
        raise AssertionError
    transfer.send(tmp_path / "x", f"{url}/modules.json")
    with pytest.raises(InputError, match=r"holds modules\.json already"), written_to(url, anew=True):
        raise AssertionError


def test_checkpoints_without_their_position_are_left_out() -> None:
    names = [*checkpoint(3), *list(checkpoint(6))[1:], "run.json", "start/x", "checkpoints/note"]
    assert whole_files(names) == [*checkpoint(3), "run.json", "start/x", "checkpoints/note"]


def test_other_machines_of_the_run_get_what_they_start_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultyProxy, url: str
) -> None:
    first = Mirror(url)
    write(first.folder, {**run_files(3), **checkpoint(6)})
    first.push()
    record = RunFolder(first.folder).record.read_bytes()
    first.fetch_start(record, "step-00000006")
    assert checkpoint(3).items() <= read(first.folder).items(), "the folder of the first process stays as it is"
    elsewhere(monkeypatch, tmp_path)
    second = Mirror(url)
    write(second.folder, {"start/tokenizer.json": "of an older run", "start/gone.json": ""})
    second.fetch_start(record, "step-00000006")
    start = {name: text for name, text in run_files(3).items() if name.startswith("start/")}
    assert read(second.folder) == {**start, **checkpoint(6)}


def test_the_end_of_a_run_reaches_a_copy_that_is_as_far_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultyProxy, url: str
) -> None:
    trained = Mirror(url)
    write(trained.folder, run_files(3))
    trained.push()
    with monkeypatch.context() as patch:
        elsewhere(patch, tmp_path)
        local_copy(url)
    write(trained.folder, {"run.json": json.dumps({"id": "one", "status": "finished"}), "model/modules.json": "[]"})
    trained.push()
    elsewhere(monkeypatch, tmp_path)
    assert (Path(local_copy(url)) / "model" / "modules.json").is_file()


def test_a_single_file(proxy: FaultyProxy, url: str) -> None:
    """An older one is there to be looked at; what fails on the way stays here."""
    with written_file(f"{url}/scores.json") as path:
        assert not Path(path).exists()
        Path(path).write_text("1")
    with written_file(f"{url}/scores.json") as path:
        assert Path(path).read_text() == "1"
        Path(path).write_text("2")
        Path(path).with_name("report.html").write_text("two")
        write(Path(path).parent, {"scores/task.json": "deep"})
    assert transfer.read_file(f"{url}/scores.json") == b"2"
    assert transfer.read_file(f"{url}/report.html") == b"two"
    assert transfer.read_file(f"{url}/scores/task.json") == b"deep"
    proxy.forbidden = "PUT"
    denied = pytest.raises(Failure, match=r"cannot be written \(PermissionError.* All of it is in ")
    with denied as caught, written_file(f"{url}/scores.json") as path:
        Path(path).write_text("3")
    assert Path(str(caught.value).rpartition("it is in ")[2], "scores.json").read_text() == "3"


def test_places_on_this_machine_are_left_alone(tmp_path: Path) -> None:
    for place in (str(tmp_path), f"file://{tmp_path}"):
        with written_to(place) as found:
            assert found == str(tmp_path)
        with written_file(place) as found:
            assert found == str(tmp_path)
        assert local_copy(place) == str(tmp_path)


def test_commands(tmp_path: Path, proxy: FaultyProxy, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """prepare and evaluate to a URL, inspect from it, over a network that fails now and then."""
    proxy.rate = 0.05
    rows = [{"query": f"what is the number {i}", "positive": f"this text has the number {i} in it"} for i in range(200)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "numbers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare = ["prepare", f"input={tmp_path / 'raw'}", f"output={url}/shards", "stages=[exact]", "shard_samples=50"]
    assert main(prepare) == 0
    readers = open_datasets(f"{url}/shards")
    assert [len(reader) for reader in readers.values()] == [200]
    assert {sample.query for sample in readers["numbers"]} == {row["query"] for row in rows}
    assert main(prepare) == 0, "finished already"
    assert main(["inspect", f"path={url}/shards", "verify=true"]) == 0
    assert "200 pairs in 4 shards" in capsys.readouterr().out
    beir = tmp_path / "beir"
    write(
        beir,
        {
            "corpus.jsonl": "\n".join(json.dumps({"_id": f"d{i}", "text": f"number {i}"}) for i in range(5)),
            "queries.jsonl": json.dumps({"_id": "q", "text": "number 3"}),
            "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\td3\t1\n",
        },
    )
    assert main(["evaluate", "model=bm25", f"tasks=[retrieval:{beir}]", f"output={url}/scores.json"]) == 0
    scores = transfer.read_file(f"{url}/scores.json").decode()
    assert f"retrieval:{beir}" in scores
    assert cache_home().is_dir()
    assert main(["inspect", f"path={url}/nothing"]) == 2
    assert "no data set there" in capsys.readouterr().err
