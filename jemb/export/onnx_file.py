"""`onnx/model.onnx` in an exported folder: the place and the outputs that sentence-transformers' ONNX backend expects.

Before: `exporter.py` has written the folder. After: `check.py` compares what onnxruntime makes of the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from jemb.errors import InputError
from jemb.model import Encoder
from jemb.model.load import model_class
from jemb.model.pooling import pool
from jemb.model.quiet import quiet

PLACE = Path("onnx", "model.onnx")
INPUTS = ["input_ids", "attention_mask"]
OUTPUTS = ["last_hidden_state", "sentence_embedding"]
"""Token vectors, which sentence-transformers pools itself, and the finished unit vector for everybody else."""
ONE_FILE = 1_900_000_000
"""Bytes of weights up to which they are in the file, which may have 2 GiB; else `model.onnx.data` is beside it."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_onnx_installed() -> None:
    """Raises `InputError` where a package of the extra `onnx` is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(f"onnx=true needs {', '.join(missing)}, not installed here: pip install 'jemb[onnx]'")


def write_onnx(encoder: Encoder, folder: Path) -> Path:
    """Write the model that `encoder.save` has put into `folder` as an ONNX file; returns its path.

    Inputs: `input_ids`, `attention_mask`, int64 [batch, length], any sizes. Outputs: `last_hidden_state`, float32
    [batch, length, width], and `sentence_embedding`, float32 [batch, dim], unit rows.
    """
    path = folder / PLACE
    path.parent.mkdir()
    with quiet(), _silence(), torch.inference_mode():
        config = AutoConfig.from_pretrained(folder)
        # The plain formula of attention: those of torch's fused kernel cannot be exported for every model.
        backbone = model_class(config).from_pretrained(folder, attn_implementation="eager").float()
        model = _WithVector(backbone, encoder).eval()
        example = encoder.tokenize(["an example of some words", "and another"])
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=encoder.max_length)}
        program = torch.onnx.export(
            model,
            (example.input_ids, example.attention_mask),
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=(axes, axes),
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # as always with dynamo=True
        size = sum(weights.nbytes for weights in backbone.parameters())
        program.save(path, external_data=size > ONE_FILE)
    return path


class _WithVector(nn.Module):
    def __init__(self, backbone: nn.Module, encoder: Encoder) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = encoder.pooling
        self.dim = encoder.truncate_dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden, pool(hidden, attention_mask, self.pooling, self.dim)


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not there and on names that torch will change."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
