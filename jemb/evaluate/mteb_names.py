"""mteb's tasks and benchmarks by the name a user writes: `mteb:TASK`, `mteb:TASK:SUBSET`, `mteb:BENCHMARK`.

Before: `tasks.py`. After: `mteb_tasks.py` runs what is found here. Imports mteb, which takes seconds.
"""

from __future__ import annotations

import copy
import os
from importlib.metadata import version
from typing import Any

import datasets
import mteb
from huggingface_hub import snapshot_download
from mteb.abstasks import AbsTask

from jemb.core.errors import InputError

datasets.disable_progress_bars()


def find_tasks(name: str) -> dict[str, AbsTask]:
    """{name as one would write it for this task alone: the task}; several for a benchmark. Nothing is loaded yet.

    name: without `mteb:`. SUBSET is one of the task's own (`en-de` of STS22) or a language (`deu`, `deu-Latn`), also
    for a benchmark: those of its tasks that have the language. Raises `InputError` for a name mteb does not know.
    """
    whole, _, last = name.rpartition(":")
    if _is_benchmark(name):
        return {_own_name(task): copy.copy(task) for task in mteb.get_benchmark(name).tasks}
    if whole and _is_benchmark(whole):
        return _in_language(whole, last)
    task_name, _, subset = name.partition(":")
    try:
        task = mteb.get_task(task_name)
    except KeyError as error:
        reason = str(error.args[0]).removeprefix("KeyError: ")
        raise InputError(
            f"mteb:{name}: {reason} Wanted a task or a benchmark of mteb {version('mteb')}{_quoting(name)}"
        ) from None
    return {f"mteb:{name}": _cut(task, subset, name) if subset else task}


def load_data(tasks: dict[str, AbsTask], name: str) -> None:
    """Load what `find_tasks` gave for `name`; `InputError` that names all whose data is not there, or no text."""
    missing: dict[str, str] = {}
    for key, task in tasks.items():
        if task.modalities != ["text"]:
            raise InputError(f"{key}: its data is {' and '.join(task.modalities)}; jemb encodes text alone")
        try:
            for part in getattr(task, "tasks", [task]):  # an aggregate has tasks of its own
                _load(part)
        except Exception as error:  # whatever the hub, the network and the data set's own code may raise
            missing[key] = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
    if missing:
        first = next(iter(missing))
        load = f"import mteb; mteb.get_task('{first.split(':')[1]}').load_data()"
        names = ", ".join(missing) if len(missing) < len(tasks) else f"{first}, …"
        which = "" if len(tasks) == 1 else f" of {len(missing)} of its {len(tasks)} tasks ({names})"
        offline = ", with HF_HUB_OFFLINE unset" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise InputError(
            f"mteb:{name}: the data{which} cannot be loaded from the disk or the hub ({missing[first]}). "
            f'Load it once with a network{offline}: python -c "{load}"'
        )


def _load(task: Any) -> None:
    """By mteb's own way; failing that, from the files of the hub as its cache has them (`hf download` leaves no more),
    which the library `datasets` does not look at without a network."""
    try:
        task.load_data()
    except Exception:
        source = task.metadata.dataset
        try:
            folder = snapshot_download(
                source["path"], repo_type="dataset", revision=source["revision"], local_files_only=True
            )
        except (OSError, ValueError):
            folder = None
        if folder is None:
            raise
        task.metadata = task.metadata.model_copy(update={"dataset": {**source, "path": folder}})
        task.load_data()


def _is_benchmark(name: str) -> bool:
    try:
        mteb.get_benchmark(name)
    except KeyError:
        return False
    return True


def _own_name(task: Any) -> str:
    """The task as `find_tasks` takes it; a benchmark may want one subset of it only."""
    one_of_many = len(task.hf_subsets) == 1 < len(task.metadata.hf_subsets)
    return f"mteb:{task.metadata.name}" + (f":{task.hf_subsets[0]}" if one_of_many else "")


def _in_language(benchmark: str, language: str) -> dict[str, AbsTask]:
    found: dict[str, AbsTask] = {}
    for task in mteb.get_benchmark(benchmark).tasks:
        try:
            found[f"mteb:{task.metadata.name}:{language}"] = copy.copy(task).filter_languages([language])
        except (ValueError, KeyError):
            continue
    if not found:
        raise InputError(f"mteb:{benchmark}:{language}: none of its tasks has the language '{language}'")
    return found


def _cut(task: Any, subset: str, name: str) -> AbsTask:
    subsets = task.metadata.hf_subsets
    try:
        return (
            task.filter_languages(None, hf_subsets=[subset]) if subset in subsets else task.filter_languages([subset])
        )
    except (ValueError, KeyError):
        languages = ", ".join(task.metadata.languages)
        shown = f"its subsets: {', '.join(subsets)}; " if task.metadata.is_multilingual else ""
        raise InputError(f"mteb:{name}: no subset or language '{subset}'; {shown}its languages: {languages}") from None


def _quoting(name: str) -> str:
    unfinished = name.count("(") > name.count(")")
    return "; a name with a comma needs quotes in a list: 'tasks=[\"mteb:MTEB(eng, v2)\"]'" if unfinished else ""
