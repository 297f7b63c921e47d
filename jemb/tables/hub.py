"""Data sets of the Hugging Face hub, or in its format on this disk: `hf:NAME[:CONFIG[:SPLIT]]`.

The library `datasets` is an extra and lives here alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.tables.columns import BATCH, BATCH_BYTES, rows_of
from jemb.tables.records import Bad, Record

PREFIX = "hf:"


@dataclass(frozen=True, slots=True)
class HubName:
    """name: on the hub, or a folder here; config: None is the only or default one."""

    name: str
    config: str | None
    split: str

    @classmethod
    def parse(cls, place: str) -> HubName | None:
        """What `hf:…` names; None for a place of another kind. Raises `InputError`."""
        if not place.startswith(PREFIX) or place.startswith(f"{PREFIX}//"):
            return None
        rest = place.removeprefix(PREFIX)
        cuts = [*(rest.rsplit(":", count) for count in range(3)), rest.split(":", 2)]  # a folder may have a colon
        cut = next((cut for cut in cuts if Path(cut[0]).expanduser().is_dir()), cuts[-1])
        name, config, split = ([*cut, "", ""])[:3]
        if not name:
            raise InputError(f"{place}: wanted hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
        return cls(name, config or None, split or "train")

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}:{self.config or ''}:{self.split}"


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of the library datasets wrote that folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


@lru_cache(maxsize=8)
def load_hub(place: str) -> Any:
    """The `datasets.Dataset` that `hf:…` names, downloaded once and then taken from the cache; batches of it are Arrow
    tables.

    Raises `InputError` when the library is missing, there is no such data set, config or split, or the hub cannot be
    reached and the cache does not have it.
    """
    hub = HubName.parse(place)
    assert hub
    try:
        import datasets
    except ImportError:
        raise InputError(f"{hub}: reading it needs the library datasets: pip install 'jemb[hf]'") from None
    folder = Path(hub.name).expanduser()
    try:
        if is_saved(folder):
            found = datasets.load_from_disk(str(folder))
            if isinstance(found, datasets.DatasetDict):
                if hub.split not in found:
                    raise ValueError(f"Unknown split {hub.split!r}; there are {', '.join(found)}")
                found = found[hub.split]
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else hub.name, hub.config, split=hub.split)
    except Exception as error:
        raise InputError(f"{hub}: cannot be loaded: {' '.join(str(error).split())}") from error
    return found.with_format("arrow")


def hub_state(place: str) -> dict[str, Any]:
    """What decides the rows: name (of a folder: without those above it), config, split, fingerprint, rows."""
    found, hub = load_hub(place), HubName.parse(place)
    assert hub
    name = Path(hub.name).name if Path(hub.name).is_dir() else hub.name
    return {
        "file": f"{PREFIX}{name}",
        "config": hub.config,
        "split": hub.split,
        "fingerprint": found._fingerprint,
        "rows": found.num_rows,
    }


def read_hub(place: str, start: int = 0, end: int | None = None) -> Iterator[Record | Bad]:
    """The rows start ≤ n < end, numbered from 1 within them."""
    found = load_hub(place)
    rows = max(1, min(BATCH, BATCH_BYTES * found.num_rows // max(found.data.nbytes, 1)))
    tables = found.select(range(start, found.num_rows if end is None else end)).iter(rows)
    return rows_of(batch for table in tables for batch in table.to_batches())
