"""The texts of evaluation tasks, from files or mteb, for whoever must keep them out of training data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jemb.core.errors import InputError
from jemb.evaluate.tasks import MTEB, require_mteb
from jemb.tables import Bad, kind_of, list_folder, look, read_table

JUDGEMENTS = "qrels"
"""The part of BEIR's layout that holds no text, and may lack a header."""


def evaluation_texts(entry: str) -> Iterator[str]:
    """Every text of `entry`: a file (all text fields of all rows), a folder of files, or `mteb:NAME`.

    Raises `InputError` where there is none, or a row cannot be read.
    """
    if entry.startswith(MTEB):
        return task_texts(entry.removeprefix(MTEB))
    found = look(entry)
    if not found.is_folder:
        return _file_texts(entry)
    entries = [item for item in list_folder(entry) if item.is_folder or kind_of(item.name)]
    entries = [item for item in entries if item.name.partition(".")[0] != JUDGEMENTS]
    if not entries:
        raise InputError(f"{entry}: no evaluation texts in it; wanted .jsonl, .csv, .tsv or .parquet files")
    return (text for item in entries for text in evaluation_texts(item.place))


def _file_texts(place: str) -> Iterator[str]:
    kind = kind_of(look(place).name)
    if kind is None:
        raise InputError(f"{place}: unknown kind of file; wanted .jsonl, .csv, .tsv or .parquet")
    for item in read_table(place, kind[0]):
        if isinstance(item, Bad):
            raise InputError(f"{place}: line {item.line}: {item.reason}; wanted evaluation data that is whole")
        yield from dataset_texts(item[1], set())


def task_texts(name: str) -> Iterator[str]:
    """Every text in the evaluation splits of the mteb task or benchmark `name`: queries, passages, sentences.

    Raises `InputError` when mteb is not installed, knows no such task, or cannot get its data (offline, say).
    """
    require_mteb(MTEB + name)
    from jemb.evaluate.mteb_names import find_tasks, load_data

    tasks = find_tasks(name)
    load_data(tasks, name)
    parts = [part for task in tasks.values() for part in getattr(task, "tasks", [task])]
    return (text for part in parts for text in dataset_texts(part.dataset, set(part.metadata.eval_splits)))


def dataset_texts(value: Any, splits: set[str]) -> Iterator[str]:
    """Texts in mteb's nested data: subsets, splits (only those of `splits`), columns of rows, lists of texts.

    Identifiers are texts too, and harmless: they are no training texts.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        chosen = value.keys() & splits or value.keys()
        for key, item in value.items():
            if key in chosen:
                yield from dataset_texts(item, splits)
    elif isinstance(value, list | tuple) or hasattr(value, "column_names"):  # the latter: a data set of rows
        for item in value:
            yield from dataset_texts(item, splits)
