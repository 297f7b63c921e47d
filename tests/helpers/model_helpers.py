"""What the tests of models share."""

from __future__ import annotations

from sentence_transformers.sentence_transformer.modules import Pooling

from jemb.model import Encoder


def set_pooling(encoder: Encoder, pooling: str, include_prompt: bool = True) -> None:
    encoder.model[1] = Pooling(encoder.backbone.config.hidden_size, pooling, include_prompt)  # type: ignore[arg-type,union-attr]
