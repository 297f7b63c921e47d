"""What there is to score, by name: `sts:FILE`, `retrieval:BEIR_DIR`, `reranking:FILE`, `negation:FILE`, `mteb:NAME`.

Before: the command's `tasks`. After: `run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from jemb.config import suggest
from jemb.core.errors import InputError
from jemb.evaluate.measure import Task
from jemb.evaluate.negation import read_negation
from jemb.evaluate.reranking import read_reranking
from jemb.evaluate.retrieval import read_retrieval
from jemb.evaluate.sts import read_sts

READERS: dict[str, Callable[[Path, str], Task]] = {
    "sts": read_sts,
    "retrieval": read_retrieval,
    "reranking": read_reranking,
    "negation": read_negation,
}
MTEB = "mteb:"


def load_tasks(names: Iterable[str]) -> list[Task]:
    """All tasks, each once, with their data; a benchmark of mteb is many. `InputError` as of `load_task`."""
    tasks = [task for name in names for task in (_mteb(name) if name.startswith(MTEB) else [_read(name)])]
    return list({task.name: task for task in tasks}.values())


def load_task(name: str) -> Task:
    """Read one task's data whole; `InputError` for an unknown kind and for anything unreadable or absent in it."""
    tasks = load_tasks([name])
    if len(tasks) > 1:
        raise InputError(f"'{name}' is a benchmark of {len(tasks)} tasks; wanted one of them, as {tasks[0].name}")
    return tasks[0]


def _read(name: str) -> Task:
    kind, colon, path = name.partition(":")
    if not colon or not path or kind not in READERS:
        wanted = "wanted sts:FILE, retrieval:BEIR_DIR, reranking:FILE, negation:FILE or mteb:NAME"
        raise InputError(f"unknown task '{name}'; {wanted}{suggest(kind, [*READERS, 'mteb']) if colon else ''}")
    return READERS[kind](Path(path).expanduser(), name)


def _mteb(name: str) -> list[Task]:
    require_mteb(name)
    from jemb.evaluate.mteb_names import find_tasks, load_data
    from jemb.evaluate.mteb_tasks import MtebTask

    tasks = find_tasks(name.removeprefix(MTEB))
    load_data(tasks, name.removeprefix(MTEB))
    return [MtebTask(key, task) for key, task in tasks.items()]


def require_mteb(name: str) -> None:
    """`InputError` unless the library is installed."""
    try:
        import mteb  # noqa: F401
    except ImportError:
        raise InputError(f"{name}: mteb is not installed; pip install 'jemb[mteb]'") from None
