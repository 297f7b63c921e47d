"""results.jsonl -> Markdown: means over seeds with 95 % intervals of Student's t, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.experiments.lab import read_lines
from benchmarks.experiments.noise import SHARES

Arm = tuple[str, str]
"""(experiment, arm) as in results.jsonl."""


def arms(experiment: str, *names: str) -> tuple[Arm, ...]:
    return tuple((experiment, name) for name in names)


SIMILARITY = ("stsb_en_dev", "sick_dev")
RETRIEVAL = ("quora/dev", "stackfaq", "cranfield", "docstrings", "scifact")
OTHER_ORIGIN = ("condaqa_dev", "semantoneg_dev", "sick", "stsb_negated", "asset_negated")
SAME_ORIGIN = ("captions_negated", "cad_nli_dev", "nli_new_protocols_dev", "docstrings_negated")
HARD, EASY = (tuple(f"{name} {kind}" for name in OTHER_ORIGIN) for kind in ("hard", "easy"))
ANTONYMS = "semantoneg_held_out"
MEANS = {
    "similarity": SIMILARITY,
    "retrieval": RETRIEVAL,
    "mean hard": (*HARD, f"{ANTONYMS} hard"),
    "mean easy": (*EASY, f"{ANTONYMS} easy"),
}
NEGATION = arms("negation", "before", "the paper's loss", "with p against n")
DOMAINS = arms("adaptation", "before", "raw", "raw, halfway", "curated", "curated, top_k=10", "mined negatives",
               "mined, others dropped", "held", "ST on raw")  # fmt: skip
OWN = ("own domain", "own recall", "own MRR")


@dataclass(frozen=True)
class Table:
    """A table of docs/experiments.md: a row an arm, then each arm less the reference."""

    name: str
    arms: tuple[Arm, ...]
    reference: Arm
    columns: tuple[str, ...] = (*SIMILARITY, *RETRIEVAL, "similarity", "retrieval")
    unit: str = "seeds"
    """Of what there are several runs an arm."""


COST = arms(
    "negation cost", "before", "triplets alone", "with pairs", "with pairs, held", "with pairs, twice the steps",
    "with pairs, other origin", "sentences of antonyms, other origin", "the same, halfway", "the same, LoRA",
)  # fmt: skip
CLEAN = ("ablation", "consistency")
GATHERED = ("sources", "single")
TABLES = (
    Table("filters", arms("ablation", "untrained", "raw", "deduplicated", "language", "consistency"),
          ("ablation", "raw")),
    Table("efficiency", (*arms("ablation", "raw", "few raw"), CLEAN), ("ablation", "raw")),
    Table("students", (("ablation", "raw"), CLEAN, *arms("auxiliary student", "static", "tiny after pairs")),
          ("auxiliary student", "static")),
    Table("sources", arms("sources", "single", "mixed", "quality", "uniform"), ("sources", "single")),
    Table("negatives", (GATHERED, *arms("negatives", "gathered on 2", "local on 2", "local on 4")), GATHERED),
    Table("peer, equal settings", arms("peer", "ST, equal", "jemb, equal"), ("peer", "ST, equal")),
    Table("peer, as recommended", (*arms("peer", "ST on raw", "ST on clean"), CLEAN), ("peer", "ST on raw")),
    Table("peer, same clean pairs", (("peer", "ST on clean"), CLEAN), ("peer", "ST on clean")),
    Table("teachers", arms("distill", "contrastive", "mined negatives", "distill", "teach", "teach and contrastive"),
          ("distill", "contrastive")),
    Table("scores of a teacher, peer", arms("distill", "ST distill", "distill"), ("distill", "ST distill")),
    Table("vectors of a teacher, peer", arms("distill", "ST teach", "teach"), ("distill", "ST teach")),
    Table("pairs of the teacher, peer", arms("distill", "ST contrastive", "contrastive"),
          ("distill", "ST contrastive")),
    Table("scored pairs", arms("scored", "before", "ST CoSENT", "scored"), ("scored", "before")),
    Table("weights", arms("weigh", "by size", "all alike", "by hand", "weighed", "better half"), ("weigh", "by size")),
    Table("hard negation, other origin", NEGATION, NEGATION[0], (*HARD, "mean hard")),
    Table("easy negation, other origin", NEGATION, NEGATION[0], (*EASY, "mean easy")),
    Table("negation, same origin", NEGATION, NEGATION[0],
          tuple(f"{name} {kind}" for name in SAME_ORIGIN for kind in ("hard", "easy"))),
    Table("cost of the triplet phase", NEGATION, NEGATION[0]),
    Table("negation without cost", COST, COST[0],
          ("semantoneg_held_out hard", "condaqa_dev hard", "sick hard", "cad_nli_dev hard",
           "nli_new_protocols_dev hard", "semantoneg_held_out easy", "condaqa_dev easy", "sick easy")),
    Table("and what it costs", COST, COST[0]),
    Table("own domain", DOMAINS, DOMAINS[0],
          (*OWN, "similarity", "stackfaq", "scifact"), "domains"),
    Table("own domain, against the pairs alone", DOMAINS[1:], DOMAINS[1],
          (*OWN, "similarity", "stackfaq", "scifact"), "domains"),
    Table("what the term adds", NEGATION[1:], NEGATION[1],
          ("captions_negated hard", "mean hard", "mean easy", *SIMILARITY, "similarity", "retrieval")),
)  # fmt: skip


STEPS = {
    "all filters, against raw pairs": (("ablation", "consistency"), ("ablation", "raw")),
    "these 15 % of the pairs, against as many at random": (("ablation", "consistency"), ("ablation", "few raw")),
    "one data set a batch, against mixed": (("sources", "single"), ("sources", "mixed")),
    "weights set by hand, against by size": (("sources", "quality"), ("sources", "single")),
    "weights by jemb weigh, against by size": (("weigh", "weighed"), ("weigh", "by size")),
    "mined hard negatives": (("distill", "mined negatives"), ("distill", "contrastive")),
    "a teacher's vectors beside the contrast": (("distill", "teach and contrastive"), ("distill", "contrastive")),
    "grades of people (STSb)": (("scored", "scored"), ("scored", "before")),
    "triplets of negation, the paper's loss": (NEGATION[1], NEGATION[0]),
    "triplets of negation, with p against n": (NEGATION[2], NEGATION[0]),
    "raw files by jemb, against sentence-transformers": (CLEAN, ("peer", "ST on raw")),
    "a good model on pairs of its new domain": (DOMAINS[1], DOMAINS[0]),
    "the same, with a mined negative each": (DOMAINS[5], DOMAINS[0]),
    "the same, on filtered pairs": (DOMAINS[3], DOMAINS[0]),
    "negation, with batches of pairs between": (COST[4], COST[0]),
    "the same, antonyms from WordNet alone": (COST[6], COST[0]),
    "the same, as a LoRA adapter": (COST[8], COST[0]),
}
"""What a step of the recipe brought: its arm, and what it is compared with."""


def summary(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each step that has results: differences paired by seed, with their intervals."""
    rows, columns = [], [*MEANS, OWN[0]]
    for step, (arm, reference) in STEPS.items():
        found = scores_of(results, arm), scores_of(results, reference)
        if all(found):
            cells = _row(step, found, columns)
            cells = [cell if "nan" not in cell else "" for cell in cells]
            rows += [cells] if any(cells[2:]) else []
    return _lines(["step", "runs", *columns], rows) if rows else []


def by_domain(results: Sequence[dict[str, Any]]) -> list[str]:
    """nDCG@10 of the held-out queries of each domain, by arm, with the interval where there are several seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in results:
        experiment, _, domain = line["experiment"].partition(" ")
        if experiment == "adaptation":
            found.setdefault(line["arm"], {}).setdefault(domain, []).append(line["scores"][domain])
    domains = sorted({domain for arm in found.values() for domain in arm})
    cells = [
        [arm, *(_shown(scores[domain]) if domain in scores else "" for domain in domains)]
        for arm, scores in found.items()
    ]
    return _lines(["arm", *domains], cells) if cells else []


def across_domains(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of `adaptation DOMAIN` as those of one experiment, in which a domain stands in the place of a seed: a
    line for each arm and domain, with the means over its seeds."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for line in results:
        experiment, _, domain = line["experiment"].partition(" ")
        if experiment == "adaptation":
            found.setdefault((line["arm"], domain), []).append(line["scores"])
    domains = sorted({domain for _, domain in found})
    made = []
    for (arm, domain), several in found.items():
        own = {"own domain": domain, "own recall": f"{domain} recall", "own MRR": f"{domain} MRR"}
        means = {name: float(np.mean([scores[name] for scores in several])) for name in several[0]}
        scores = {name: means[key] for name, key in own.items()} | means
        made.append({"experiment": "adaptation", "arm": arm, "seed": domains.index(domain), "scores": scores})
    return made


def labelled(results: Sequence[dict[str, Any]]) -> list[str]:
    """What the consistency filter keeps of pairs that people have labelled, by auxiliary model and rule."""
    rows = []
    for line in results:
        if line["experiment"].startswith("auxiliary noise/"):
            scores, name = line["scores"], line["experiment"].partition("/")[2].removesuffix("_labelled")
            for rule in ("all", "alike 0.85"):
                if f"{rule} 2 recall" in scores:
                    model = line["arm"] + (f", {rule.replace(' ', '=')}" if rule != "all" else "")
                    cells = [
                        f"{scores[f'{rule} {k} recall']:.1f} / {scores[f'{rule} {k} wrong kept']:.1f}"
                        for k in (1, 2, 5, 10)
                    ]
                    rows.append([name, model, *cells, f"{scores[f'{rule} 2 precision']:.1f}"])
    return _lines(["set", "model", *(f"top_k={k}" for k in (1, 2, 5, 10)), "precision, top_k=2"], rows) if rows else []


def unlabelled(results: Sequence[dict[str, Any]]) -> list[str]:
    """The same of sets where nobody has said what is right: what is kept, and what of shifted positives."""
    rows = []
    for line in results:
        if line["experiment"].startswith("auxiliary pairs/"):
            scores = line["scores"]
            cells = [
                f"{scores[f'{rule} {k} recall']:.1f} / {scores[f'{rule} {k} shifted kept']:.1f}"
                for rule, k in (("all", 2), ("alike 0.85", 2), ("all", 10))
            ]
            rows.append([line["experiment"].partition("/")[2], f"{line['passages']:,}", *cells])
    return _lines(["set", "passages", "top_k=2", "top_k=2, alike=0.85", "top_k=10"], rows) if rows else []


def print_tables(folder: Path) -> None:
    results = read_lines(folder / "results.jsonl")
    for name, lines in all_tables(results).items():
        print(f"{name}\n\n" + "\n".join(lines) + "\n")


def all_tables(results: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The lines of every table that has results, by name."""
    single, results = results, [*results, *across_domains(results)]
    made = {
        "summary": summary(results),
        "by domain": by_domain(single),
        "kinds": kinds(results),
        "labelled": labelled(results),
        "unlabelled": unlabelled(results),
        **{table.name: markdown(table, results) for table in TABLES},
    }
    return {name: lines for name, lines in made.items() if lines}


def kinds(results: Sequence[dict[str, Any]]) -> list[str]:
    """Rows of each kind of noise that each filter leaves."""
    counts = {line["arm"]: line["scores"] for line in results if line["experiment"] == "kinds"}
    if not counts:
        return []
    columns = [kind for kind in SHARES if kind in counts["before"]]
    rows = []
    for arm in ("before", "raw", "deduplicated", "language", "consistency"):
        total = sum(counts[arm].values())
        belong = sum(counts[arm].get(kind, 0) for kind in ("real", "exact copy", "near copy"))
        cells = [f"{counts[arm].get(kind, 0):,}" for kind in columns]
        rows.append([arm, *cells, f"{total:,}", f"{100 * belong / total:.0f}"])
    return _lines(["arm", *columns, "rows", "% English pairs that belong together"], rows)


def markdown(table: Table, results: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table; none where the reference has no result, or nothing can be compared with it."""
    scores = {arm: scores_of(results, arm) for arm in table.arms}
    there = [arm for arm, found in scores.items() if found]
    columns = [c for c in table.columns if any(c in found for arm in there for found in scores[arm].values())]
    if table.reference not in there or len(there) < 2:
        return []
    head = ["arm", table.unit, *columns]
    rows = [_row(arm[1], [scores[arm]], columns) for arm in there]
    reference, others = scores[table.reference], [arm for arm in there if arm != table.reference]
    rows += [_row(f"{arm[1]} − {table.reference[1]}", [scores[arm], reference], columns) for arm in others]
    return _lines(head, rows)


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the width of the 95 % interval of Student's t); NaN for the width of one value."""
    numbers = np.array(values, float)
    if len(numbers) < 2:
        return float(numbers.mean()), float("nan")
    error = numbers.std(ddof=1) / np.sqrt(len(numbers))
    return float(numbers.mean()), float(stats.t.ppf(0.975, len(numbers) - 1) * error)


def scores_of(results: Sequence[dict[str, Any]], arm: Arm) -> dict[int, dict[str, float]]:
    """Scores of an arm by seed, with the means over tasks."""
    found: dict[int, dict[str, float]] = {}
    for line in results:
        if (line["experiment"], line["arm"]) == arm:
            scores = dict(line["scores"])
            for mean, tasks in MEANS.items():
                if len(several := [scores[task] for task in tasks if task in scores]) > 1:
                    scores[mean] = sum(several) / len(several)
            found[line["seed"]] = scores
    return found


def _row(name: str, several: Sequence[dict[int, dict[str, float]]], columns: Sequence[str]) -> list[str]:
    """One arm, or one less another, seed by seed; what was never trained has one score, which stands for each seed."""
    first = several[0]
    seeds = sorted(set(first) if len(several) == 1 else _common(first, several[1]))
    cells = []
    for column in columns:
        values = []
        for seed in seeds:
            scores = [arm[seed if seed in arm else 0].get(column, float("nan")) for arm in several]
            values.append(scores[0] if len(several) == 1 else scores[0] - scores[1])
        cells.append(_shown(values, "+" if len(several) > 1 else ""))
    return [name, str(len(seeds)), *cells]


def _shown(values: Sequence[float], sign: str = "") -> str:
    mean, half = interval(values)
    return f"{mean:{sign}.1f}" + (f" ± {half:.1f}" if half == half else "")


def _common(first: dict[int, Any], second: dict[int, Any]) -> set[int]:
    return set(first) if set(second) == {0} else set(first) & set(second)
