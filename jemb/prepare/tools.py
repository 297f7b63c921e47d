"""What the stages are given from outside, because `prepare/` knows no models and no evaluation tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""N texts to unit vectors [N, D]. An `identity`, where the function has one, names all its vectors depend on."""
Score = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float32]]
"""N (query, passage) to their relevance [N]."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Models, and the texts of evaluation tasks. Each is picklable, and called once in each worker.

    encoder, mining_encoder: `consistency.encoder` or `mine.encoder` to the function. cross_encoder:
    `cross_encoder.model` to the function. evaluation_texts: an entry of `decontaminate.against` to its texts.
    """

    encoder: Callable[[str], Encode]
    mining_encoder: Callable[[str], Encode]
    cross_encoder: Callable[[str], Score]
    evaluation_texts: Callable[[str], Iterable[str]]
