"""Types that several commands' options share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Strings = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
StageName = Literal[
    "exact",
    "near_duplicates",
    "decontaminate",
    "language",
    "overlap",
    "consistency",
    "negation",
    "mine",
    "cross_encoder",
]
"""The filters in the order they run: the paper's four, and between them those it did not have."""
Stages = Annotated[list[StageName], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Sides = Literal["query", "positive", "both"]
DuplicateSide = Literal["query", "positive", "both", "joined"]
