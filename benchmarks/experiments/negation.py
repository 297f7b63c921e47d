"""The triplet phase on all-MiniLM-L6-v2: does it learn negation, and what does that cost elsewhere?

Trained on NLI contradictions, minimal edits, and two captions of one picture of which jemb's rules negate the second.
Scored on sets of another origin (CondaQA's and SemAntoNeg's people, SICK), on held-out rows of the training sets'
origin, and on similarity and retrieval, against the model before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.experiments.lab import Lab
from benchmarks.experiments.material import DOCSTRINGS, RETRIEVAL, SIMILARITY, Row
from jemb.model import find_folder
from jemb.prepare.negating import negate

TRIPLETS = {
    "triplets/nli_new_protocols": 5000,
    "triplets/cad_nli": None,
    "triplets/wordnet_antonym": 5000,
    "negation/scone_train": None,
}
"""Training sets, and how many rows of each."""
SIMILAR, EQUAL = "sts/stsb_en_dev", 4.0
SIMPLIFIED, NUM_NEGATED = "pairs/asset_simplification", 800
CAPTIONS, NUM_CAPTIONS = "pairs/multi30k_captions", 6000
OTHER_ORIGIN = ["negation/condaqa_dev", "negation/semantoneg_dev", "triplets/sick"]
SAME_ORIGIN = ["triplets_dev/cad_nli_dev", "triplets_dev/nli_new_protocols_dev"]
TASKS = [f"negation:{name}.jsonl.gz" for name in [*OTHER_ORIGIN, *SAME_ORIGIN]]
TASKS += [*SIMILARITY, *RETRIEVAL, *DOCSTRINGS]
MAX_LENGTH = 64
"""Tokens of an evaluation text; training cuts at the recipe's length."""
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ARMS: dict[str, list[str]] = {
    "the paper's loss": [],
    "with p against n": ["loss_weights.positive_margin=1"],
}


def run(lab: Lab, seed: int) -> None:
    model = find_folder(MODEL)
    lab.score("negation", "before", 0, model, tasks(lab), MAX_LENGTH)
    shards = prepare(lab)
    for arm, options in ARMS.items():
        if lab.scored("negation", arm, seed):
            continue
        recipe = ["experiment=small_triplets", f"init={model}", *options]
        run = lab.train("negation", arm.replace(" ", "-").replace("'", ""), seed, shards, *recipe)
        lab.score("negation", arm, seed, run, tasks(lab), MAX_LENGTH)


def tasks(lab: Lab) -> list[str]:
    """All that is scored; the first of them are made here: pairs that mean the same, the second negated by rule."""
    folder = lab.raw("negated", lambda: dict(negated(lab)))
    return [f"negation:{path.absolute()}" for path in sorted(folder.glob("*.jsonl"))] + TASKS


def negated(lab: Lab) -> Iterator[tuple[str, list[Row]]]:
    material = lab.material
    for name in material.names(SIMILAR):
        pairs = [(r["sentence1"], r["sentence2"]) for r in material.rows(name) if float(r["score"]) >= EQUAL]
        yield "stsb_negated", _negate(pairs)
    for name in material.names(SIMPLIFIED):
        by_query = {row["query"]: row["positive"] for row in material.rows(name)}
        yield "asset_negated", _negate(list(by_query.items()))[:NUM_NEGATED]
    for name in material.names(CAPTIONS):
        held_out = material.rows(name)[NUM_CAPTIONS : NUM_CAPTIONS + 2 * NUM_NEGATED]
        yield "captions_negated", _negate([(row["query"], row["positive"]) for row in held_out])[:NUM_NEGATED]


def _negate(pairs: list[tuple[str, str]]) -> list[Row]:
    return [
        {"query": one, "positive": other, "negative": wrong}
        for one, other in pairs
        if one != other and (wrong := negate(other)) and wrong != one
    ]


def prepare(lab: Lab) -> Path:
    raw = lab.raw("negation", lambda: collect(lab))
    return lab.prepare("negation", raw, ["exact", "negation"])


def collect(lab: Lab) -> Mapping[str, list[Row]]:
    """Triplets as they are, captions as pairs: the negation stage gives these their negatives."""
    material = lab.material
    names = [name for name in TRIPLETS if material.names(name)] or material.names("triplets/*")
    made = {name.rpartition("/")[2]: material.rows(name, TRIPLETS.get(name)) for name in names}
    if material.names(CAPTIONS):
        made["captions"] = material.rows(CAPTIONS, NUM_CAPTIONS)
    return made
