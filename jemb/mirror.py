"""Results behind a URL: the job works in a folder on this machine, and the files are copied to where `output` says.

Files that make others valid (`position.json` of a checkpoint, `manifest.json` of a data set, …) are copied after them,
so whoever reads there never takes half of something for the whole. Only what changed is copied again.

What it does not do: keep two machines from writing to one URL (a run's lock is that of the machine's folder); copy
while the job works (a checkpoint is there when the next step begins, which waits for it); append (a grown log is sent
whole); make a data set that `jemb prepare` had not finished go on from another machine.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from jemb.core.errors import Failure, InputError
from jemb.core.files import create, inside, read_json, write_json
from jemb.core.parse import check_shape, parse_json
from jemb.run_folder import CHECKPOINT, RECORD, RunFolder
from jemb.shards import cache_home
from jemb.tables.places import base_name, each, is_url, join, to_local
from jemb.tables.transfer import NotThere, fetch, list_tree, read_file, remove, send

log = logging.getLogger(__name__)

LAST = ("modules.json", "position.json", "manifest.json", "run.json")
"""What is copied after all else, in this order: where one of them stands, what it speaks of is whole."""
STATE = ".mirror.json"
"""{file: its bytes and time of change when it was copied; null where that may have been cut off}."""
FETCHED = ".fetched"

Stamp = list[int] | None


class Mirror:
    """The folder on this machine for `url`: the same one each time, below `cache_home()`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        self.folder = cache_home() / "outputs" / f"{base_name(self.url)}-{digest}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hint = "; the same command copies it from there"

    def push(self) -> None:
        """Copy what changed, and remove there what is gone here. Raises `Failure` naming the folder that has it all."""
        here, before = self._files(), self._copied()
        changed = [name for name in here if before.get(name) != here[name]]
        gone = [name for name in before if name not in here]
        if not changed and not gone:
            return
        now: dict[str, Stamp] = {**before, **dict.fromkeys(changed)}
        write_json(self.folder / STATE, now)  # first: what a killed process had begun to copy is known to be ours

        def copy(name: str) -> None:
            send(self.folder / name, join(self.url, name))
            now[name] = here[name]

        try:
            each(copy, [name for name in changed if base_name(name) not in LAST])
            last = [name for name in changed if base_name(name) in LAST]
            for name in sorted(last, key=lambda name: LAST.index(base_name(name))):
                copy(name)
            for name in sorted(gone, key=lambda name: base_name(name) not in LAST):
                remove(join(self.url, name))
                del now[name]
        except (InputError, Failure) as error:
            raise Failure(f"{error}. All of it is in {self.folder}{self.hint}") from error
        finally:
            write_json(self.folder / STATE, now)

    def try_push(self) -> None:
        """The same, but what goes wrong is only said: the next one copies that, too."""
        try:
            self.push()
        except Failure as error:
            log.warning("%s", error)

    def check_ours(self) -> None:
        """Raise `InputError` where the URL holds what was not copied there from this folder."""
        before = self._copied()
        if strange := [name for name in list_tree(self.url) if name not in before]:
            raise InputError(
                f"output={self.url}: holds {strange[0]}, which was not written from {self.folder}; use another output"
            )

    def fetch_run(self) -> None:
        """Bring the run at the URL here where it is further on than the folder, or another one.

        Raises `InputError` where something else is there.
        """
        there, run = list_tree(self.url), RunFolder(self.folder)
        if run.record.name not in there:
            if strangers := sorted({name.partition("/")[0] for name in there} - run.names):
                raise InputError(f"output={self.url}: holds {strangers[0]}, which is no part of a run; use another one")
            if self._copied().get(run.record.name):
                self._set_aside("the run is no longer at its URL")
            return
        record = read_file(where := join(self.url, run.record.name))
        check_shape(known_there := parse_json(record, where), RECORD, where)
        identity = known_there.get("id")
        known = run.read_record().get("id") if run.record.exists() else None
        whole = whole_files(there)
        newest = max((step for name in whole if (step := _step(name))), default=0)
        as_far = known == identity and max((step for step, _ in run.checkpoints()), default=0) >= newest
        # A copy in which nothing was done may still be of a moment before the run's end.
        if as_far and (run.record.read_bytes() == record or self._files() != self._copied()):
            return
        if known not in (identity, None):
            self._set_aside("another run is at its URL")
        log.info("fetching the run at %s, step %d", self.url, newest)
        self._replace({name: there[name] for name in whole})

    def fetch_start(self, record: bytes, checkpoint: str | None) -> None:
        """On a machine that does not share the folder with the run's first process, which has written `record` to
        run.json there: bring what the processes here start from."""
        run = RunFolder(self.folder)
        if run.record.exists():
            if run.record.read_bytes() == record:
                return
            self._set_aside("it is not what the run's first process goes on from")
        wanted = (f"{run.start.name}/", f"{run.checkpoint_folder.name}/{checkpoint}/")
        self._replace({name: size for name, size in list_tree(self.url).items() if name.startswith(wanted)})

    def _files(self) -> dict[str, Stamp]:
        """{name: bytes and time of change} of all there is to copy."""
        found: dict[str, Stamp] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            if not any(part.startswith((".", "damaged-")) for part in name.parts) and path.is_file():
                status = path.stat()
                found[name.as_posix()] = [status.st_size, status.st_mtime_ns]
        return found

    def _copied(self) -> dict[str, Stamp]:
        with suppress(InputError):  # none yet, or damaged: then all is copied again
            return dict(read_json(self.folder / STATE, {}))
        return {}

    def _replace(self, there: Mapping[str, int]) -> None:
        """Make the folder hold these files from the URL, and no others; run.json comes last."""

        def download(name: str) -> None:
            path = inside(self.folder / FETCHED, name, self.url)
            path.parent.mkdir(parents=True, exist_ok=True)
            with create(path) as file:
                fetch(join(self.url, name), file, there[name])

        shutil.rmtree(self.folder / FETCHED, ignore_errors=True)
        each(download, there)
        (self.folder / "run.json").unlink(missing_ok=True)
        for old in self._entries():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        fetched = sorted((self.folder / FETCHED).iterdir(), key=lambda path: path.name == "run.json")
        for path in fetched:
            path.rename(self.folder / path.name)
        write_json(self.folder / STATE, self._files())

    def _set_aside(self, why: str) -> None:
        aside = self.folder.with_name(f"{self.folder.name}.{time.time_ns()}")
        aside.mkdir()
        (self.folder / STATE).unlink(missing_ok=True)
        for path in self._entries():
            path.rename(aside / path.name)
        log.warning("%s: %s; what this machine had of it is now in %s", self.url, why, aside)

    def _entries(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if not path.name.startswith(".")]


def mirror_of(place: str) -> Mirror | None:
    """None for a place on this machine."""
    return Mirror(place) if is_url(to_local(place)) else None


@contextmanager
def written_to(place: str, *, anew: bool = False) -> Iterator[str]:
    """Where a job shall write what is to stand at `place`: there, or for a URL in a folder here, copied at the end.

    anew: begin with an empty folder, and refuse a URL where something whole stands.
    """
    if not is_url(place := to_local(place)):
        yield place
        return
    mirror = Mirror(place)
    if anew:
        if whole := [name for name in list_tree(place) if base_name(name) in LAST]:
            raise InputError(f"output={place}: holds {whole[0]} already; give a new or an empty place")
        shutil.rmtree(mirror.folder)
        mirror.folder.mkdir()
    else:
        mirror.check_ours()
    yield str(mirror.folder)
    mirror.push()
    log.info("copied to %s", place)


@contextmanager
def written_file(place: str) -> Iterator[str]:
    """The same for a file and what a job writes beside it; an older one there is fetched first."""
    if not is_url(place := to_local(place)):
        yield place
        return
    mirror = Mirror(place)
    shutil.rmtree(mirror.folder)
    mirror.folder.mkdir()
    path = inside(mirror.folder, base_name(place), f"output={place}")
    with suppress(NotThere):
        path.write_bytes(read_file(place))
    yield str(path)
    mirror.url, mirror.hint = place.rpartition("/")[0], ""
    mirror.push()
    log.info("copied to %s", place)


def local_copy(place: str) -> str:
    """A path to the run or model folder at `place`: that itself, or for a URL a copy on this machine, brought up to
    date."""
    if not is_url(place := to_local(place)):
        return place
    mirror, there = Mirror(place), list_tree(place)
    if not there:
        raise InputError(f"{place}: nothing there; wanted a run or a model")
    if "run.json" in there:
        mirror.fetch_run()
    else:
        mirror._replace(there)
    return str(mirror.folder)


def whole_files(names: Iterable[str]) -> list[str]:
    """Those of a run, but for checkpoints whose copying was cut off."""
    names = list(names)
    whole = {_step(name) for name in names if base_name(name) == "position.json"}
    return [name for name in names if _step(name) in whole | {None}]


def _step(name: str) -> int | None:
    """The step of the checkpoint that a file belongs to."""
    parts = name.split("/")
    match = CHECKPOINT.fullmatch(parts[1]) if len(parts) > 2 and parts[0] == "checkpoints" else None
    return int(match[1]) if match else None
