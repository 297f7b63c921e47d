"""`push_to_hub` through huggingface_hub itself, against a server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jemb.core.errors import InputError
from jemb.export.exporter import check_login
from tests.helpers.export_runs import bert, make_run
from tests.helpers.hub_server import Hub, serving


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    with serving(server):
        yield server


def run_export(hub: Hub, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the address is read when huggingface_hub is imported."""
    command = [sys.executable, "-m", "jemb.app.cli", "export", f"run={folder}/run", f"output={folder}/out", *options]
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    home = {"HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1"}
    everything = {**os.environ, **settings, **home, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=everything, timeout=300)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_all_files_of_the_folder_are_committed_at_once(hub: Hub, tmp_path: Path) -> None:
    make_run(tmp_path / "run", model=bert())
    done = run_export(hub, tmp_path, "push_to_hub=me/model", "private=true")
    assert done.returncode == 0, done.stderr
    assert hub.repositories == {"me/model": True}
    assert len(hub.commits) == 1
    assert hub.commits[0] == files_of(tmp_path / "out")
    assert {"model.safetensors", "README.md", "modules.json"} <= hub.commits[0].keys()
    assert 'SentenceTransformer("me/model")' in hub.commits[0]["README.md"].decode()
    assert "Bearer hf_secret" in hub.tokens
    assert f"uploaded: {hub.address}/me/model" in done.stderr


@pytest.mark.slow
def test_a_refused_upload_leaves_the_folder_and_says_how_to_go_on(hub: Hub, tmp_path: Path) -> None:
    make_run(tmp_path / "run", model=bert())
    hub.refuse = "/commit/"
    done = run_export(hub, tmp_path, "push_to_hub=me/model")
    assert done.returncode == 1
    assert f"is whole; when that is mended: hf upload me/model {tmp_path}/out" in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.commits == []
    assert {"model.safetensors", "README.md", "modules.json"} <= files_of(tmp_path / "out").keys()


@pytest.mark.slow
def test_who_is_not_known_learns_it_before_the_export(hub: Hub, tmp_path: Path) -> None:
    make_run(tmp_path / "run", model=bert())
    hub.refuse = "/whoami"
    done = run_export(hub, tmp_path, "push_to_hub=me/model")
    assert done.returncode == 2
    assert f"{hub.address} did not let you in" in done.stderr
    assert "hf auth login" in done.stderr
    assert not (tmp_path / "out").exists()


def test_offline_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        check_login()
