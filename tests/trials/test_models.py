"""Model folders that are damaged, made up or meant to harm: refused by name, none of their code runs, nothing is asked."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from tests.trials.damage import DEEP, all_of, cut, edited, fields, gone, put, without
from tests.trials.fault import Fault, check, refused
from tests.trials.world import EVALUATE, TRAIN

SCORE = EVALUATE.format("sts:eval/sts.jsonl")
START = f"{TRAIN} init=model"
CONFIG, WEIGHTS, TOKENIZER = "model/config.json", "model/model.safetensors", "model/tokenizer.json"
MODULES, LIMITS, POOLING = "model/modules.json", "model/sentence_bert_config.json", "model/1_Pooling/config.json"

HARMFUL = "import pathlib\npathlib.Path('../harmed').write_text('')\nclass Model: pass\nclass Config: pass\n"


class Harm:
    def __reduce__(self):
        return Path.write_text, (Path("../harmed"), "")


def own_code(world: Path) -> None:
    (world / "model/harmful.py").write_text(HARMFUL)
    fields(CONFIG, auto_map={"AutoModel": "harmful.Model", "AutoConfig": "harmful.Config"}, model_type="own")(world)


def pickled(world: Path) -> None:
    (world / WEIGHTS).unlink()
    (world / "model/pytorch_model.bin").write_bytes(pickle.dumps(Harm()))


def module(number: int, **values: str):
    return edited(MODULES, lambda value: value[number].update(values))


BROKEN = [
    ("config missing", gone(CONFIG), "config.json"),
    ("config empty", put(CONFIG, ""), "config.json"),
    ("config not JSON", put(CONFIG, "{"), "config.json"),
    ("config a list", put(CONFIG, "[]"), "config.json"),
    ("config nested too deep", put(CONFIG, DEEP), "config.json"),
    ("config of an unknown kind", fields(CONFIG, model_type="nonesuch"), "nonesuch"),
    ("config without its kind", without(CONFIG, "model_type"), "config.json"),
    ("no heads", fields(CONFIG, num_attention_heads=0), "model"),
    ("heads that do not divide", fields(CONFIG, num_attention_heads=5), "model"),
    ("ten million layers", fields(CONFIG, num_hidden_layers=10**7), "model"),
    ("width of a text", fields(CONFIG, hidden_size="wide"), "hidden_size"),
    ("negative width", fields(CONFIG, hidden_size=-32), "model"),
    ("another width than the weights", fields(CONFIG, hidden_size=64), "model"),
    ("fewer words than the tokenizer", fields(CONFIG, vocab_size=40), "model"),
    ("weights missing", gone(WEIGHTS), "model"),
    ("weights empty", put(WEIGHTS, b""), "SafetensorError"),
    ("weights cut off", cut(WEIGHTS, 4000), "SafetensorError"),
    ("weights with a header of 2^60 bytes", put(WEIGHTS, (2**60).to_bytes(8, "little") + b"{}"), "SafetensorError"),
    ("weights that are no tensors", put(WEIGHTS, b"\x02" + bytes(7) + b"{}"), "model"),
    ("pickled weights", pickled, "model"),
    ("tokenizer missing", gone(TOKENIZER), "tokenizer"),
    ("tokenizer not JSON", put(TOKENIZER, "{"), "tokenizer"),
    ("tokenizer nested too deep", put(TOKENIZER, DEEP), "tokenizer"),
    ("modules not JSON", put(MODULES, "["), "modules.json"),
    ("modules nested too deep", put(MODULES, DEEP), "modules.json"),
    ("modules an object", put(MODULES, "{}"), "modules.json"),
    ("modules a list of texts", put(MODULES, '["a"]'), "modules.json"),
    ("a module out of the folder", module(1, path="../../other"), "modules.json"),
    ("a module of an absolute path", module(1, path="/etc"), "modules.json"),
    ("a module that nobody knows", module(1, type="sentence_transformers.models.Nonesuch"), "Nonesuch"),
    ("a module of the folder's own code", all_of(put("model/harmful.py", HARMFUL), module(1, type="harmful.Model")), "harmful.Model"),
    ("a module of another library", module(1, type="os.system"), "os.system"),
    ("own code", own_code, "model"),
    ("length limit below zero", fields(LIMITS, max_seq_length=-5), "max_seq_length"),
    ("length limit of letters", fields(LIMITS, max_seq_length="abc"), "max_seq_length"),
    ("pooling that nobody knows", put(POOLING, json.dumps({"word_embedding_dimension": 32, "pooling_mode": "best"})), "best"),
    ("pooling not JSON", put(POOLING, "{"), "1_Pooling"),
    ("prompts that are no texts", fields("model/config_sentence_transformers.json", prompts={"query": 5}), "model"),
]  # fmt: skip

FAULTS = [
    *(refused(f"evaluate: {name}", SCORE, breaks, said) for name, breaks, said in BROKEN),
    *(refused(f"train: {name}", START, breaks, said) for name, breaks, said in BROKEN[::4]),
    refused("model missing", SCORE.replace("=model", "=modle"), None, "modle"),
    refused("model an empty folder", SCORE.replace("=model", "=none"), lambda w: (w / "none").mkdir(), "none"),
    refused("model a file", SCORE.replace("=model", "=raw/pairs.jsonl"), None, "raw/pairs.jsonl"),
    refused("base without weights", f"{TRAIN} model.path=model", gone(WEIGHTS), "model"),
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_model(fault: Fault, world: Path) -> None:
    check(fault, world)
