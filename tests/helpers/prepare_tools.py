"""What the tests of prepare give to it: an encoder of a few lines, and tools that must not be asked; tar files."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jemb.prepare import StageInputs, Tools


def bag_of_words(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors [N, 64]: each word adds 1 at its hash; a text without words points along the first axis."""
    vectors = np.zeros((len(texts), 64), np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split() or [""]:
            vectors[row, hashlib.sha1(word.encode()).digest()[0] % 64] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def bag_encoder(name: str) -> Callable[[Sequence[str]], Any]:
    """Picklable, from a name to a function."""
    return bag_of_words


def no_model(name: str) -> Any:
    raise AssertionError(f"{name} was asked for")


def lines_of(entry: str) -> list[str]:
    """What `Tools.evaluation_texts` is."""
    return Path(entry).read_text().splitlines()


def bag_encoders(options: Any) -> Callable[[str], Any]:
    """What `Tools.encoder` is."""
    return bag_encoder


TOOLS = Tools(bag_encoders, no_model, lines_of)


def inputs(seed: int = 0, make: Any = no_model, *, prepared: Any = None, others: Sequence[Path] = ()) -> StageInputs:
    """What a stage is given. make: from a model's name to the model, of either kind."""
    return StageInputs(seed, Tools(lambda options: make, lambda options: make, lines_of), prepared, others)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
