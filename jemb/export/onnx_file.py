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
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from jemb.core.errors import InputError
from jemb.model import Encoder
from jemb.model.find import first_line
from jemb.model.folder import quiet

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
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass  # of an extra

    path = folder / PLACE
    path.parent.mkdir()
    with quiet(), _silence(), torch.inference_mode():
        # The plain formula of attention: those of torch's fused kernel cannot be exported for every model.
        plainly = {"attn_implementation": "eager", "dtype": torch.float32}
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=plainly)
        example = encoder.tokenize(["an example of some words", "and another"])
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=encoder.max_length)}
        try:
            program = torch.onnx.export(
                _WithVector(model, encoder.truncate_dim).eval(),
                (example.input_ids.long(), example.attention_mask),
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes=(axes, axes),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            kind = type(encoder.backbone).__name__
            raise InputError(
                f"onnx=true: torch cannot write {kind} as ONNX ({first_line(error)}); leave onnx out"
            ) from error
        assert program is not None  # as always with dynamo=True
        # The exporter notes the lines and paths of the code here that made each node.
        program.model.metadata_props.clear()
        ClearMetadataAndDocStringPass()(program.model)
        size = sum(weights.nbytes for weights in model.parameters())
        program.save(path, external_data=size > ONE_FILE)
    return path


def check_onnx_possible(encoder: Encoder) -> None:
    """Raises `InputError` for what an ONNX file of token ids and mask cannot say."""
    if encoder.static:
        raise InputError("onnx=true: static embeddings are a table, which needs no ONNX file; leave onnx out")
    if any(getattr(module, "include_prompt", True) is False for module in encoder.model):
        raise InputError(
            "onnx=true: this model leaves prompts out of pooling, which the file is not told; leave onnx out"
        )


class _WithVector(nn.Module):
    def __init__(self, model: SentenceTransformer, dim: int | None) -> None:
        super().__init__()
        self.model = model
        self.dim = dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model[0]({"input_ids": input_ids, "attention_mask": attention_mask})
        hidden = features["token_embeddings"]
        for module in list(self.model)[1:]:
            features = module(features)
        vectors = features["sentence_embedding"][:, : self.dim]
        return hidden, normalize(vectors, dim=-1) if self.dim else vectors


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not there and on names that torch will change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
