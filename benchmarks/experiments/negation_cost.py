"""Negation without cost: all-MiniLM-L6-v2 learns what people negated, and should forget nothing of what it knew.

Triplets of people's negations (contradictions, minimal edits, antonyms) are learned alone, or with batches of plain
pairs between them: these by their own loss, or by staying where the model before had them (`teach`). What is learned is
scored on held-out rows of the same origin, and on sets whose origin an arm does not train on; what is forgotten, on
similarity and retrieval.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.experiments.lab import Lab
from benchmarks.experiments.material import RETRIEVAL, SIMILARITY
from jemb.model import find_folder

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TRIPLETS = {
    "triplets/nli_new_protocols": 4000,
    "triplets/cad_nli": None,
    "triplets/wordnet_antonym": 2000,
    "negation/condaqa_train": None,
}
ANTONYMS = "negation/semantoneg_dev"
"""Four fifths of its queries are learned from, one is scored; an arm of another origin leaves it out."""
CAPTIONS, NUM_CAPTIONS = "pairs/multi30k_captions", 4000
PAIRS = {
    "quora_duplicates": 3000,
    "squad_question_sentence": 1500,
    "asset_simplification": 2000,
    "disfl_qa": 2000,
    "medquad": 2000,
}
ADJECTIVES = {"not", "of", "having", "lacking", "capable", "without", "being", "with", "characterized", "relating"}
ADJECTIVES |= {"marked", "showing", "free", "incapable", "involving", "made", "tending", "able", "situated", "full"}
ADJECTIVES |= {"impossible", "located", "feeling", "causing", "occurring", "concerned", "suitable", "possessing"}
"""First words of glosses of adjectives; those of nouns begin with an article, those of verbs with a verb."""
SUBJECTS = ["It is", "This is", "That was", "He is", "She was", "They are", "We were", "I am", "You are", "The man is"]
SUBJECTS += ["The answer was", "The house is", "Her friends are", "The water was", "Everything is", "The plan was"]
RESTS = ["", "", "", " now", " to us", " after all", " today", ", they say", " again", " for a child"]
MAX_LENGTH = 64
"""Tokens of an evaluation text."""
SCORED = ["negation/condaqa_dev", "triplets/sick", "triplets_dev/cad_nli_dev", "triplets_dev/nli_new_protocols_dev"]
TASKS = [f"negation:{name}.jsonl.gz" for name in SCORED]
TASKS += [*SIMILARITY, *RETRIEVAL]

HALF = ["max_steps=240", "warmup_steps=24"]
ARMS: dict[str, tuple[str, list[str]]] = {
    "triplets alone": ("triplets", HALF),
    "with pairs": ("all", HALF),
    "with pairs, held": ("all", [*HALF, *(f"objectives.{name}=teach" for name in PAIRS)]),
    "with pairs, twice the steps": ("all", []),
    "with pairs, other origin": ("other", []),
    "sentences of antonyms, other origin": ("sentences", []),
    "the same, LoRA": ("sentences", ["model.lora.rank=16", "learning_rate=3e-4"]),
}
"""Shards, and options beside the recipe."""
REPEATED = ["triplets alone", "with pairs, twice the steps", "sentences of antonyms, other origin", "the same, LoRA"]
"""Arms of all seeds; the others are trained with the first one alone, for the time they take."""
HALFWAY = {"sentences of antonyms, other origin": "the same, halfway"}
"""Of these arms the mean of the weights before and after is scored as well (WiSE-FT, arXiv 2109.01903)."""


def run(lab: Lab, seed: int) -> None:
    model = find_folder(MODEL)
    lab.score("negation cost", "before", 0, model, tasks(lab), MAX_LENGTH)
    made = prepare(lab)
    for arm, (shards, options) in ARMS.items():
        if lab.scored("negation cost", arm, seed if arm in REPEATED else None):
            halfway = HALFWAY.get(arm)
            if halfway is None or lab.scored("negation cost", halfway, None):
                continue
        recipe = ["experiment=negation", f"init={model}", *options]
        run = lab.train("negation-cost", arm.replace(" ", "-").replace(",", ""), seed, made[shards], *recipe)
        lab.score("negation cost", arm, seed, run, tasks(lab), MAX_LENGTH)
        if arm in HALFWAY and not lab.scored("negation cost", HALFWAY[arm], None):
            merged = run.parents[1] / "halfway" / run.name
            lab.jemb("merge", f"runs=[{model},{run}]", "weights=[0.5,0.5]", f"output={merged}")
            lab.score("negation cost", HALFWAY[arm], seed, merged, tasks(lab), MAX_LENGTH)


def tasks(lab: Lab) -> list[str]:
    return [f"negation:{lab.raw('antonyms', lambda: held_out(lab)).absolute()}/semantoneg_held_out.jsonl", *TASKS]


def held_out(lab: Lab) -> Mapping[str, list[Any]]:
    rows = lab.material.rows(ANTONYMS)
    queries = sorted({row["query"] for row in rows})
    scored = set(queries[::5])
    return {
        "semantoneg_held_out": [row for row in rows if row["query"] in scored],
        "semantoneg": [row for row in rows if row["query"] not in scored],
    }


def prepare(lab: Lab) -> dict[str, Path]:
    """Folders of shards: `triplets`, `all` with pairs besides, `other` with pairs and without SemAntoNeg, `sentences`
    with those of antonyms in its place."""
    folder = lab.raw("negation-cost", lambda: collect(lab))
    model = find_folder(MODEL)
    stages = {name: ["exact", "decontaminate", "teacher"] for name in PAIRS}
    options = [f"sources.{name}.stages=[{','.join(some)}]" for name, some in stages.items()]
    options += ["sources.semantoneg.stages=[exact]"]
    options += [
        "sources.captions.stages=[exact,negation,decontaminate]",
        f"teacher.model={model}",
        "teacher.max_length=64",
    ]
    everything = lab.prepare("negation-cost", folder, ["exact"], *options)
    raw = lab.raw("negation-cost-sentences", lambda: {"sentences": antonym_sentences(lab)})
    sentences = lab.prepare("negation-cost-sentences-alone", raw, ["exact"])
    made = {}
    for name, places, left_out in (
        ("all", [everything], set()),
        ("triplets", [everything], set(PAIRS)),
        ("other", [everything], {"semantoneg"}),
        ("sentences", [everything, sentences], {"semantoneg"}),
    ):
        made[name] = lab.folder / "shards" / f"negation-cost-{name}"
        made[name].mkdir(parents=True, exist_ok=True)
        for dataset in (dataset for place in places for dataset in place.iterdir()):
            link = made[name] / dataset.name
            if (dataset / "manifest.json").exists() and dataset.name not in left_out and not link.exists():
                link.symlink_to(dataset.absolute())
    return made


def antonym_sentences(lab: Lab) -> list[dict[str, str]]:
    """What is not deep is shallow: WordNet's antonyms in plain sentences of ours. The positive says the same by the
    other word, the negative the opposite, by one word more, or less, or the other one."""
    made, draw = [], random.Random("sentences of antonyms")
    for row in lab.material.rows("triplets/wordnet_antonym"):
        pair = row["positive"], row["negative"]
        adjective = row["query"].split()[0] in ADJECTIVES and not any(word.endswith("ly") for word in pair)
        if adjective and all(word.isalpha() and word.islower() for word in pair):
            subject, rest = draw.choice(SUBJECTS), draw.choice(RESTS)
            for word, other in (pair, pair[::-1]):
                has, other_has = (f"{subject} {one}{rest}." for one in (word, other))
                lacks, other_lacks = (f"{subject} not {one}{rest}." for one in (word, other))
                made.append({"query": lacks, "positive": other_has, "negative": draw.choice([has, other_lacks])})
                made.append({"query": has, "positive": other_lacks, "negative": draw.choice([lacks, other_has])})
    return made


def collect(lab: Lab) -> Mapping[str, list[Any]]:
    material = lab.material
    made: dict[str, list[Any]] = {name.rpartition("/")[2]: material.rows(name, rows) for name, rows in TRIPLETS.items()}
    made["semantoneg"] = held_out(lab)["semantoneg"]
    made["captions"] = material.rows(CAPTIONS, NUM_CAPTIONS)
    return made | {name: material.rows(f"pairs/{name}", count) for name, count in PAIRS.items()}
