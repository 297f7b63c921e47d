"""The texts of evaluation tasks, from files or mteb, for whoever must keep them out of training data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jemb.errors import InputError
from jemb.tables import Bad, kind_of, list_folder, look, read_table

MTEB = "mteb:"


def evaluation_texts(entry: str) -> Iterator[str]:
    """Every text of `entry`: a file (all text fields of all rows), a folder of files, or `mteb:TASK`.

    Raises `InputError` where there is none, or a row cannot be read.
    """
    if entry.startswith(MTEB):
        return task_texts(entry.removeprefix(MTEB))
    found = look(entry)
    if not found.is_folder:
        return _file_texts(entry)
    entries = [item for item in list_folder(entry) if item.is_folder or kind_of(item.name)]
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
    """Every text in the evaluation splits of the mteb task `name`: queries, passages, sentences.

    Raises `InputError` when mteb is not installed, knows no such task, or cannot get its data (offline, say).
    """
    try:
        import mteb
    except ImportError:
        raise InputError(f"mteb:{name}: mteb is not installed; pip install 'jemb[mteb]'") from None
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        raise InputError(f"mteb:{name}: {error.args[0] if error.args else error}") from None
    try:
        task.load_data()
    except Exception as error:  # whatever the hub, the network and the data set's own code may raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InputError(f"mteb:{name}: its data cannot be loaded ({type(error).__name__}: {reason})") from None
    return dataset_texts(task.dataset, set(task.metadata.eval_splits))


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
