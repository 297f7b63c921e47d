"""The records that pass between the parts: a text sample on its way to the shards, a token batch to the model.

Before: raw files (`prepare/source/sources.py`). After: `shards/` stores samples, `data/collate.py` makes batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

Kind = Literal["pairs", "triplets", "scored", "labelled", "distill"]
"""What the samples of a data set teach: a right answer; one and hard negatives; how alike two texts are; the class of a
text; what a teacher thinks of the answers. It is also the name of the objective that learns from it."""
Label = int | str


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample: a pair, or a triplet when `negatives` is not empty.

    key: unique within its data set and stable; no dot and no slash in it (a WebDataset key).
    positive: the right answer; of a labelled text that stands alone the text itself. more_positives: further ones.
    score: how alike query and positive are, the higher the more. label: the class of the texts. scores: a teacher's of
    the positive, the further ones and the negatives, in this order; None where one is not known; () where there are
    none. extra: further JSON fields of the source, carried through unread.
    """

    key: str
    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    more_positives: tuple[str, ...] = ()
    score: float | None = None
    label: Label | None = None
    scores: tuple[float | None, ...] = ()

    @property
    def positives(self) -> tuple[str, ...]:
        """All right answers."""
        return (self.positive, *self.more_positives)

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them: the query, the positives, the negatives."""
        return (self.query, *self.positives, *self.negatives)

    @property
    def kind(self) -> Kind:
        if self.scores:
            return "distill"
        if self.score is not None:
            return "scored"
        if self.label is not None:
            return "labelled"
        return "triplets" if self.negatives else "pairs"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of N texts padded on the right to L: int32 [N, L], on any device. All else stays on the host.

    lengths: int64 [N], how many tokens each text has. prompt_lengths: int64 [N], how many of its first tokens pooling
    leaves out; None: it takes all.
    """

    input_ids: Tensor
    lengths: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64] | None = None

    @classmethod
    def padded(cls, ids: NDArray[np.int64], lengths: NDArray[np.int64], pad_id: int) -> Tokens:
        """From the ids of N texts one after the other and their lengths [N]; L is the longest, at least 1."""
        import numpy as np
        import torch

        mask = np.arange(int(lengths.max(initial=1))) < lengths[:, None]
        padded = np.full(mask.shape, pad_id, dtype=np.int32)
        padded[mask] = ids
        return cls(torch.from_numpy(padded), lengths)

    @property
    def attention_mask(self) -> Tensor:
        """int64 [N, L], made on the device of the ids: 1 = real token, 0 = padding."""
        import torch

        device = self.input_ids.device
        length_N1 = to_device(torch.from_numpy(self.lengths), device)[:, None]
        return (torch.arange(self.input_ids.shape[1], device=device) < length_N1).long()

    def without_prompt(self, lengths: Sequence[int]) -> Tokens:
        """The same with the prompt's tokens left out of pooling; lengths: of the prompt of each text, [N]."""
        import numpy as np

        return replace(self, prompt_lengths=np.array(lengths, dtype=np.int64))

    def rows(self, chosen: Any, width: int | None = None) -> Tokens:
        """Some of the texts, cut to their first `width` tokens."""
        prompts = None if self.prompt_lengths is None else self.prompt_lengths[chosen]
        ids = self.input_ids[chosen, :width]
        return Tokens(ids, self.lengths[chosen].clip(max=ids.shape[1]), prompts)

    def to(self, device: torch.device) -> Tokens:
        return replace(self, input_ids=to_device(self.input_ids, device))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there. The host does not wait for a copy to CUDA: it is made from pinned memory, in stream order."""
    pinned = device.type == "cuda" and not tensor.is_cuda
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)


class Batch:
    """This rank's rows of one global batch: B samples of one data set. No dataclass: DeepSpeed would rebuild one.

    query: B texts. positive: P of each sample, B*P texts, row-major (sample 0's P first); None for texts that stand
    alone. negatives: B*K texts, row-major; None for pairs. P is 1 but where several are wanted.
    *_hash: int64 content hashes of the same texts, in the same order; equal texts have equal hashes on every rank.
    keys: the samples' keys of the whole global batch in plan order, when asked for (`log_samples`); else of these rows.
    share_sum, batch_sum: check sums of the rows of this rank and of the whole global batch; the former, added up over
    all ranks modulo 2**32, give the latter, or the ranks do not share out the same batch.
    negatives_short, positives_short: of these samples those that have fewer than K or P, so that some stand here more
    than once. objective: by which of the module's the step is learned; "" for its only one. score: float64 [B]; label:
    int64 [B], a hash; scores: float64 [B, P + K], NaN where there is none or the text stands here once more; teacher:
    float32 [B, 1 + P + K, D], a teacher's vectors of the texts; each None where the data set has none, and teacher
    where the objective does not want it.
    """

    step: int
    dataset: str
    keys: tuple[str, ...]
    query: Tokens
    positive: Tokens | None
    negatives: Tokens | None
    query_hash: Tensor
    positive_hash: Tensor | None
    negative_hash: Tensor | None
    share_sum: int = 0
    batch_sum: int = 0
    negatives_short: int = 0
    positives_short: int = 0
    objective: str = ""
    score: Tensor | None = None
    label: Tensor | None = None
    scores: Tensor | None = None
    teacher: Tensor | None = None

    def __init__(self, **values: Any) -> None:
        assert values.keys() <= Batch.__annotations__.keys(), f"no fields of a batch: {values.keys()}"
        vars(self).update(values)

    @property
    def texts(self) -> list[Tokens]:
        """Those there are: queries, positives, negatives."""
        return [texts for texts in (self.query, self.positive, self.negatives) if texts is not None]

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors there, except for the hashes, which the host compares."""
        moved = {
            name: value.to(device) if isinstance(value, Tokens) else to_device(value, device)
            for name, value in vars(self).items()
            if hasattr(value, "to") and not name.endswith("_hash")
        }
        return Batch(**vars(self) | moved)
