"""Types that several commands' options share."""

from __future__ import annotations

from dataclasses import is_dataclass
from enum import Enum
from typing import Annotated, Literal, get_type_hints

from pydantic import BeforeValidator, Field


class Role(Enum):
    """What an option of a run has a say in; it stands in the option's type, `Annotated[int, Role.MACHINE]`."""

    RESULT = "what is trained: it may not change while the run lasts; of every option without another role"
    COURSE = "how, or how far: it may change when the run goes on"
    UPKEEP = "what is kept, shown and waited for: it may change, and says nothing of the model"
    MACHINE = "paths and workers of a machine: it may change, each process may have its own, and it is nobody else's"


def roles(cls: type) -> dict[str, Role]:
    """The role of each option of a config class, by name; of those in a group without one, as GROUP.NAME, too."""
    found = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        found[name] = next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Role)), Role.RESULT)
        inner = roles(hint) if isinstance(hint, type) and is_dataclass(hint) else {}
        found |= {f"{name}.{option}": role for option, role in inner.items()}
    return found


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
MaxLength = Annotated[int, Field(ge=2)]
Alone = BeforeValidator(lambda value: [value] if isinstance(value, int | str) else value)
"""A list of one item may be given as that item."""
Strings = Annotated[list[str], Alone]
Widths = Annotated[list[Positive], Alone]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Field(description="Where to compute.")]
TrustCode = Annotated[
    bool,
    Field(
        description="Run code that comes with the model. Never asked for on the terminal: without this such a model is "
        "refused."
    ),
]
Quantization = Literal["int8", "binary"]
"""How vectors are made small to be stored."""
DuplicateSide = Literal["query", "positive", "both", "joined"]
