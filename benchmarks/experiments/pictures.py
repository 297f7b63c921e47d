"""results.jsonl -> the three pictures at the top of docs/experiments.md.

steps.svg       what each step of the recipe brought, with intervals
rules.svg       right and wrong pairs that the consistency filter keeps, by auxiliary model and rule
negation.svg    HardNegation before and after the triplet phase, by set
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.experiments.lab import read_lines
from benchmarks.experiments.tables import (
    NEGATION,
    OTHER_ORIGIN,
    SAME_ORIGIN,
    STEPS,
    across_domains,
    interval,
    scores_of,
)
from jemb.report import STYLE

WIDTH = 6.0
BLUE, ORANGE, GREEN, GREY = "#2a78b8", "#d55e00", "#009e73", "#8d979f"
TOP_K = (1, 2, 5, 10)
Results = Sequence[dict[str, Any]]


def steps(results: Results) -> Figure:
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    names = [name for name, arms in STEPS.items() if all(scores_of(results, arm) for arm in arms)]
    columns = {"similarity": GREY, "retrieval": BLUE, "mean hard": ORANGE, "own domain": GREEN}
    for column, colour in columns.items():
        label = "HardNegation" if column == "mean hard" else column
        for place, name in enumerate(names):
            after, before = (scores_of(results, arm) for arm in STEPS[name])
            seeds = set(after) if set(before) == {0} else set(after) & set(before)
            pairs = [(after[seed], before[seed if seed in before else 0]) for seed in seeds]
            if all(column in one and column in other for one, other in pairs):
                mean, half = interval([one[column] - other[column] for one, other in pairs])
                shift = 0.14 if column != "similarity" else -0.14
                axes.errorbar(mean, place + shift, xerr=half, fmt="o", markersize=4, color=colour, label=label)
                label = None
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("points")
    figure.legend(loc="outside upper right", ncols=4, fontsize=8)
    return figure


def rules(results: Results) -> Figure:
    sets = {"tweets: paraphrase or not": "noise/twitter_url_labelled", "WikiQA: answer or not": "noise/wikiqa_labelled"}
    figure, both = plt.subplots(1, 2, figsize=(WIDTH, 2.9), sharey=True)
    for axes, (title, name) in zip(both, sets.items(), strict=True):
        found: Mapping[str, Any] = {r["arm"]: r["scores"] for r in results if r["experiment"] == f"auxiliary {name}"}
        lines = [("MiniLM", "all", BLUE, "-"), ("MiniLM", "alike 0.85", BLUE, "--"), ("static", "all", GREEN, "-"),
                 ("BM25", "all", ORANGE, "-"), ("tiny after pairs", "all", GREY, "-")]  # fmt: skip
        for model, rule, colour, style in lines:
            scores = found[model]
            points = [(scores[f"{rule} {k} wrong kept"], scores[f"{rule} {k} recall"]) for k in TOP_K]
            label = model if rule == "all" else f"{model}, alike=0.85"
            axes.plot(*zip(*points, strict=True), style, marker="o", color=colour, markersize=4, label=label)
        axes.set(title=title, xlabel="% of wrong pairs kept", ylim=(0, 100))
    both[0].set_ylabel("% of right pairs kept")
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def negation(results: Results) -> Figure:
    sets = [*SAME_ORIGIN[:3], *OTHER_ORIGIN]
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    for arm, colour, label in zip(
        NEGATION, (GREY, GREEN, BLUE), ("before", *(a[1] for a in NEGATION[1:])), strict=True
    ):
        scores = scores_of(results, arm)
        means = [interval([one[f"{name} hard"] for one in scores.values()])[0] for name in sets]
        axes.plot(means, range(len(sets)), "o", color=colour, label=label)
    axes.set_yticks(range(len(sets)), [name.replace("_", " ") for name in sets], fontsize=8)
    axes.axhline(2.5, color="black", linewidth=0.6, linestyle=":")
    axes.text(1, 2.45, "origin of the training data", va="bottom", fontsize=8)
    axes.text(1, 2.55, "other origin", va="top", fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="HardNegation, %")
    figure.legend(loc="outside upper right", ncols=3)
    return figure


def draw(results: Path, target: Path) -> None:
    found = read_lines(results)
    found += across_domains(found)
    with plt.rc_context(
        {**STYLE, "legend.frameon": False, "figure.constrained_layout.use": True, "svg.hashsalt": "jemb"}
    ):
        for make in (steps, rules, negation):
            make(found).savefig(target / f"{make.__name__}.svg", metadata={"Date": None})
