"""What there is to score, by name: `sts:FILE`, `retrieval:BEIR_DIR`, `reranking:FILE`, `negation:FILE`, `mteb:NAME`,
and what is registered from outside; and all texts of such data, for whoever must keep them out of training.

Before: the command's `tasks`. After: `run.py`; `prepare/` by way of `app/models.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jemb.core.errors import InputError
from jemb.core.text import listed_texts
from jemb.evaluate.measure import Task
from jemb.registry import TASKS, suggest
from jemb.tables.places import list_folder, look
from jemb.tables.records import Bad
from jemb.tables.whole import counted_in, kind_of, read_table

if TYPE_CHECKING:
    from jemb.evaluate.tasks.mteb_tasks import MtebTask

Read = Callable[[Path, str], Task]
"""(file or folder, name of the task) -> the task, with its data read."""
MTEB = "mteb:"
JUDGEMENTS = "qrels"
"""The part of BEIR's layout that holds no text, and may lack a header."""


def task(kind: str) -> Callable[[Read], Read]:
    """Decorator of a function from a file and the task's name to a `Task`: `tasks=KIND:FILE` calls it from here on.

    A package makes its own known to every command by an entry point of the group `jemb.tasks`; without either,
    PACKAGE.MODULE.FUNCTION:FILE finds it.
    """
    return TASKS.add(kind)


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


def evaluation_texts(entry: str) -> Iterator[str]:
    """Every text of `entry`: a file (all text fields of all rows), a folder of files, or `mteb:NAME`, whose evaluation
    splits count.

    Raises `InputError` where there is none, or a row cannot be read.
    """
    if entry.startswith(MTEB):
        parts = [part for one in _mteb(entry) for part in getattr(one.task, "tasks", [one.task])]
        return (text for part in parts for text in dataset_texts(part.dataset, set(part.metadata.eval_splits)))
    if not look(entry).is_folder:
        return _file_texts(entry)
    entries = [item for item in list_folder(entry) if item.is_folder or kind_of(item.name)]
    entries = [item for item in entries if item.name.partition(".")[0] != JUDGEMENTS]
    if not entries:
        raise InputError(f"{entry}: no evaluation texts in it; wanted .jsonl, .csv, .tsv or .parquet files")
    return (text for item in entries for text in evaluation_texts(item.place))


def dataset_texts(value: Any, splits: set[str]) -> Iterator[str]:
    """Texts in mteb's nested data: subsets, splits (only those of `splits`), columns of rows, lists of texts.

    Identifiers are texts too, and harmless: they are no training texts.
    """
    if isinstance(value, str):
        yield from listed_texts(value) or [value]
    elif isinstance(value, Mapping):
        for key in [key for key in value if key in splits] or value:
            yield from dataset_texts(value[key], splits)
    elif isinstance(value, list | tuple) or hasattr(value, "column_names"):  # the latter: a data set of rows
        for item in value:
            yield from dataset_texts(item, splits)


def _read(name: str) -> Task:
    kind, colon, path = name.partition(":")
    known = TASKS.names()
    own = "." in kind and kind not in known
    if not colon or not path or not (own or kind in known):
        wanted = "wanted sts:FILE, retrieval:BEIR_DIR, reranking:FILE, negation:FILE, mteb:NAME"
        more = "".join(f", {other}:FILE" for other in known if other not in TASKS.own)
        near = suggest(kind, [*known, "mteb"]) if colon else ""
        raise InputError(f"unknown task '{name}'; {wanted}{more} or PACKAGE.MODULE.FUNCTION:FILE of your own{near}")
    made = TASKS.find(":".join(kind.rsplit(".", 1)) if own else kind)(Path(path).expanduser(), name)
    if not isinstance(made, Task):
        raise InputError(f"{name}: {kind} gave {type(made).__name__}; wanted a jemb.evaluate.Task")
    return made


def _mteb(name: str) -> Sequence[MtebTask]:
    """mteb's tasks with their data; `InputError` too where the library is not installed."""
    try:
        import mteb  # noqa: F401
    except ImportError:
        raise InputError(f"{name}: mteb is not installed; pip install 'jemb[mteb]'") from None
    from jemb.evaluate.tasks.mteb_tasks import load_mteb

    return load_mteb(name.removeprefix(MTEB))


def _file_texts(place: str) -> Iterator[str]:
    kind = kind_of(look(place).name)
    if kind is None:
        raise InputError(f"{place}: unknown kind of file; wanted .jsonl, .csv, .tsv or .parquet")
    for item in read_table(place, kind[0]):
        if isinstance(item, Bad):
            raise InputError(
                f"{place}: {counted_in(kind[0])} {item.line}: {item.reason}; wanted evaluation data that is whole"
            )
        yield from dataset_texts(item[1], set())
