"""Data sets of the Hugging Face hub, or in its format on this disk: `hf:NAME[:CONFIG[:SPLIT]]`.

The library `datasets` is an extra and lives here alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jemb.core.errors import InputError
from jemb.tables.columns import BATCH, BATCH_BYTES, rows_of
from jemb.tables.records import Bad, Record

log = logging.getLogger(__name__)

PREFIX = "hf:"
SECONDS = 5
"""To wait for the hub's first answer. Its own client goes on asking for half a minute where there is no network."""


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


def hub_name(place: str) -> HubName:
    """The data set that `hf:…` names."""
    hub = HubName.parse(place)
    if hub is None:
        raise InputError(f"{place}: wanted hf:NAME")
    return hub


@lru_cache(maxsize=8)
def load_hub(hub: HubName) -> Any:
    """The `datasets.Dataset`, downloaded once and then taken from the cache; batches of it are Arrow tables.

    Raises `InputError` when the library is missing, there is no such data set, config or split, or the hub cannot be
    reached and the cache does not have it.
    """
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
            if not folder.is_dir():
                _check_hub(hub, datasets)
            found = datasets.load_dataset(str(folder) if folder.is_dir() else hub.name, hub.config, split=hub.split)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{hub}: cannot be loaded: {' '.join(str(error).split())}") from error
    return found.with_format("arrow")


def hub_state(hub: HubName) -> dict[str, Any]:
    """What decides the rows: name (of a folder: without those above it), config, split, fingerprint, rows."""
    found = load_hub(hub)
    name = Path(hub.name).name if Path(hub.name).is_dir() else hub.name
    return {
        "file": f"{PREFIX}{name}",
        "config": hub.config,
        "split": hub.split,
        "fingerprint": found._fingerprint,
        "rows": found.num_rows,
    }


def read_hub(hub: HubName, start: int = 0, end: int | None = None) -> Iterator[Record | Bad]:
    """The rows start ≤ n < end, numbered from 1 within them."""
    found = load_hub(hub)
    rows = max(1, min(BATCH, BATCH_BYTES * found.num_rows // max(found.data.nbytes, 1)))
    tables = found.select(range(start, found.num_rows if end is None else end)).iter(rows)
    return rows_of(batch for table in tables for batch in table.to_batches())


def _check_hub(hub: HubName, datasets: Any) -> None:
    """`InputError` when the hub says there is no such data set; when it says nothing, only the cache counts."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().dataset_info(hub.name, timeout=SECONDS)
    except RepositoryNotFoundError:
        way_out = "look up its name, or log in (`hf auth login`) if it is private"
        raise InputError(f"{hub}: neither a folder here nor a data set of the Hugging Face hub; {way_out}") from None
    except OfflineModeIsEnabled:
        return
    except Exception as error:
        log.warning("%s: the Hugging Face hub does not answer (%s); looking in the cache", hub, error)
        datasets.config.HF_HUB_OFFLINE = True
