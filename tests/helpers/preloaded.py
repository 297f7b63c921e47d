"""What the server of the tests' processes imports before it forks any: everything, so that none of them has to."""

from __future__ import annotations

import gc
import importlib
import os
from importlib.util import find_spec

del os.environ["PYTHONPATH"]  # which says where this file is (ranks.py), and is no matter of the tests
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as `strategy=deepspeed_*` has it, before DeepSpeed is imported
MODULES = (
    "hydra",
    "fasttext",
    "datasketch",
    "pyarrow.parquet",
    "deepspeed",
    "peft",
    "sentence_transformers",
    "torch.utils.tensorboard",
    "deepspeed.runtime.zero.muon.original_muon",  # which imports the compiler of torch, three seconds
    "jemb.app.cli",
    "jemb.app.models",
    "jemb.evaluate",
    "jemb.export",
    "jemb.inspect",
    "jemb.prepare",
    "jemb.prepare.near.join",
    "jemb.prepare.vectors.embeddings",
    "jemb.pretokenize",
    "jemb.train.build",
    "jemb.train.strategies.deepspeed",
    "jemb.train.train",
)
try:
    for module in MODULES:
        if find_spec(module.partition(".")[0]):  # some are extras
            importlib.import_module(module)
    importlib.import_module("jemb.prepare.options").PrepareConfig.whole()  # which imports all stages
    # What libraries build when first used, 0.3 s each: patterns of model classes, grammars, what numba compiles to.
    importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
    command = importlib.import_module("jemb.app.cli").COMMANDS["train"]
    importlib.import_module("jemb.app.compose").compose_config("train", command.config, ["shards=any", "output=any"])
    target = importlib.import_module("numba.core.registry").cpu_target
    target.target_context.refresh()
    target.typing_context.refresh()
except ImportError as error:  # of which the server would say nothing, and every process import everything again
    raise RuntimeError(f"tests/helpers/preloaded.py: {error}") from error
gc.collect()
gc.freeze()  # else the first collection in each process would copy all of this memory, half a second of work
