"""Draws the pictures of `recipe.md` from what jemb computes on the data and models of a demo.

    jemb demo output=demo
    python docs/pictures.py demo [NAME …]

writes docs/pictures/NAME.svg; without names all of them. Two minutes on one core.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from jemb.core.records import Sample
from jemb.data import BatchPlan, Collate, PlanSource
from jemb.loss import Pairs, Rows, Texts
from jemb.model import Encoder, encode, find_folder, load_encoder
from jemb.prepare.near.candidates import keys_of
from jemb.prepare.near.folding import fold, fold_text, pack
from jemb.prepare.stages.near_duplicates import NearDuplicatesConfig
from jemb.shards import open_datasets

HERE = Path(__file__).parent / "pictures"
WIDTH = 5.0
"""Inches: with this, letters are still readable where a phone shrinks the picture."""
BLUE, ORANGE, GREEN, GREY = "#2a78b8", "#d55e00", "#009e73", "#8d979f"
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "jemb",
}


def journey(demo: Path) -> Figure:
    """The boxes of the first page."""
    names = ["raw files", "prepare", "shards", "plan", "pairs", "triplets", "evaluate", "export"]
    figure, axes = plt.subplots(figsize=(WIDTH, 1.5))
    axes.set(xlim=(-0.5, 3.5), ylim=(-0.5, 1.5))
    axes.axis("off")
    for number, name in enumerate(names):
        x, y = number % 4, 1 - number // 4
        box = FancyBboxPatch((x - 0.34, y - 0.26), 0.68, 0.52, boxstyle="round,pad=0.04", ec=BLUE, fc="#eaf2f9")
        axes.add_patch(box)
        axes.text(x, y, name, ha="center", va="center")
        if number % 4:
            arrow(axes, (x - 0.61, y), (x - 0.39, y))
    axes.plot([3, 3, 0, 0], [0.69, 0.5, 0.5, 0.5], color=GREY, lw=1.2)
    arrow(axes, (0, 0.5), (0, 0.31))
    return figure


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = GREY) -> None:
    axes.annotate(
        "",
        end,
        start,
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": 0, "shrinkB": 0},
    )


def minhash(demo: Path) -> Figure:
    """How often a pair becomes a candidate, by its similarity."""
    config = NearDuplicatesConfig()
    texts = [fold_text(row["entailment"]) for row in read_lines(demo / "corpus" / "negation.jsonl")]
    words = sorted({word for text in texts for word in text.split()})
    draw = random.Random(0)
    pairs = []
    for _ in range(24_000):
        text = " ".join(draw.choices(words, k=14)).split()
        other = [draw.choice(words) if draw.random() < rate else word for rate in [draw.random() / 4] for word in text]
        pairs.append((" ".join(text), " ".join(other)))
    similarity = np.array([jaccard(*pair) for pair in pairs])
    keys = keys_of(fold(pack([text for pair in pairs for text in pair])), config, seed=0)[2:]
    candidate = (keys[:, 0::2] == keys[:, 1::2]).any(axis=0)
    bins = np.linspace(0.4, 1, 25)
    middles = (bins[1:] + bins[:-1]) / 2
    which = np.digitize(similarity, bins) - 1
    filled = [number for number in range(len(middles)) if (which == number).any()]
    share = [100 * candidate[which == number].mean() for number in filled]
    figure, axes = plt.subplots(figsize=(WIDTH, 3.1))
    line = np.linspace(0.4, 1, 200)
    axes.fill_between([0.8, 1], 0, 100, color=GREEN, alpha=0.12, lw=0)
    axes.plot(line, 100 * (1 - (1 - line**8) ** 16), color=GREY, label=r"$1-(1-J^8)^{16}$, 16 bands of 8")
    axes.plot(line, 100 * (1 - (1 - line**13) ** 9), color=GREY, ls=":", label=r"$1-(1-J^{13})^9$, 9 bands of 13")
    axes.plot(middles[filled], share, "o", color=BLUE, ms=4, label="measured, 24,000 pairs")
    axes.axvline(0.8, color=ORANGE, ls="--", lw=1.2)
    axes.text(0.805, 14, "the exact check\nkeeps these apart:\n← stays   goes →", fontsize=9.5, color=ORANGE)
    axes.set(xlabel="Jaccard similarity J of two texts", ylabel="become candidates, %", xlim=(0.4, 1), ylim=(0, 102))
    axes.legend(loc="upper left", fontsize=9.5)
    return figure


def jaccard(text: str, other: str) -> float:
    """Of the sets of five letters, by Python's sets."""
    a, b = ({s[i : i + 5] for i in range(len(s) - 4)} for s in (text, other))
    return len(a & b) / len(a | b)


def consistency(demo: Path) -> Figure:
    """Ranks of the own positive, and of another row's, among all passages of a data set."""
    rows = list(read_lines(demo / "corpus" / "raw" / "summary_details.jsonl"))[:3000]
    encoder = load_encoder(str(find_folder("sentence-transformers/all-MiniLM-L6-v2")), max_length=64)
    query, positive = (encode(encoder, [row[side] for row in rows]) for side in ("query", "positive"))
    scores = query @ positive.T
    edges = [1, 2, 3, 5, 9, 17, 33, 65, 129, 10**9]
    names = ["1", "2", "3–4", "5–8", "9–16", "17–32", "33–64", "65–128", ">128"]
    figure, axes = plt.subplots(figsize=(WIDTH, 3.1))
    for shift, own, colour, name in (
        (-0.2, np.arange(len(rows)), BLUE, "the data as it is"),
        (0.2, np.roll(np.arange(len(rows)), 7), ORANGE, "with another row's positive"),
    ):
        ranks = 1 + (scores > scores[np.arange(len(rows)), own][:, None] + 1e-6).sum(axis=1)
        counts, _ = np.histogram(ranks, edges)
        kept = (ranks <= 2).mean()
        axes.bar(np.arange(9) + shift, 100 * counts / len(rows), 0.4, color=colour, label=f"{name}: {kept:.1%} stay")
    axes.axvline(1.5, color=GREY, ls="--", lw=1.2)
    axes.text(1.6, 80, "top_k = 2\n← stays   goes →", fontsize=9.5, color="#555")
    axes.set_xticks(range(9), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=9.5)
    axes.set(xlabel=f"rank of the positive among {len(rows):,} passages", ylabel="rows, %")
    figure.legend(loc="outside upper left", fontsize=9.5)
    return figure


def batches(demo: Path) -> Figure:
    """Mixed batches against those of the plan."""
    size, steps = 20, 40
    sources = [PlanSource("forum", 6000, "f"), PlanSource("articles", 3000, "a"), PlanSource("code", 1000, "c", 2.0)]
    plan = BatchPlan(sources, seed=1, global_batch_size=size)
    names = [source.name for source in sources]
    single = np.array([names.index(plan.batch(step)[0]) for step in range(steps)])
    shares = [plan.shares[name] for name in names]
    mixed = np.random.default_rng(0).choice(3, (size, steps), p=shares)
    colours = matplotlib.colors.ListedColormap([BLUE, ORANGE, GREEN])
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 3.9), sharex=True)
    for axes, cells, title in ((above, mixed, "mixed"), (below, np.tile(single, (size, 1)), "one source a batch")):
        axes.imshow(cells, cmap=colours, aspect="auto", vmin=0, vmax=2, interpolation="nearest")
        axes.set_xticks(np.arange(steps + 1) - 0.5, minor=True)
        axes.grid(which="minor", axis="x", color="white", lw=0.8)
        axes.tick_params(which="minor", length=0)
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_yticks([])
        axes.set_ylabel("samples", fontsize=9.5)
    below.set_xlabel("step")
    marks = [Rectangle((0, 0), 1, 1, color=colour) for colour in (BLUE, ORANGE, GREEN)]
    labels = [
        f"{s.name}: {s.num_samples:,} × {s.weight:g} → {share:.0%}" for s, share in zip(sources, shares, strict=True)
    ]
    figure.legend(marks, labels, loc="outside lower left", fontsize=9.5, ncols=1)
    return figure


def gradients(demo: Path) -> Figure:
    """Candidates of four processes, and the gradient under each scheme against that of one process."""
    encoder = load_encoder(str(demo / "runs" / "pairs"))
    samples = list(open_datasets(demo / "shards" / "pairs")["summary_details"])[:64]
    with torch.no_grad():
        query, positive, *_ = embed(encoder, samples)
        cosines = (query @ positive.T)[:32, :32].numpy()
    found = {name: flow(encoder, samples, scheme) for name, scheme in SCHEMES.items()}
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.9), height_ratios=(1, 1.25))
    above.axis("off")
    own = np.kron(np.eye(4), np.ones((8, 8))) > 0
    for number, (cells, title) in enumerate(
        ((np.where(own, cosines, np.nan), "own candidates: 7 negatives"), (cosines, "gathered: 31 negatives"))
    ):
        axes = above.inset_axes((0.02 + 0.53 * number, 0, 0.43, 0.86))
        axes.imshow(cells, cmap="Blues", vmin=-0.3, vmax=1, aspect="auto")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(np.arange(3.5, 32, 8), [])
        axes.set_yticks(np.arange(3.5, 32, 8), ["p0", "p1", "p2", "p3"] if not number else [], fontsize=9.5)
        axes.tick_params(length=0)
        axes.set_xlabel("positives", fontsize=9.5)
        if not number:
            axes.set_ylabel("queries of each process", fontsize=9.5)
        for border in (7.5, 15.5, 23.5):
            axes.axhline(border, color="white", lw=1.5)
            axes.axvline(border, color="white", lw=1.5)
    reference = found[REFERENCE]
    marks = ["o", "*", "s", "^", "D", "v"]
    for (name, gradient), mark, colour in zip(
        found.items(), marks, [GREY, GREEN, BLUE, ORANGE, "#7e5fb5", "#b8862a"], strict=True
    ):
        cosine = float(gradient @ reference / gradient.norm() / reference.norm())
        length = float(gradient.norm() / reference.norm())
        angle = float(np.degrees(np.arccos(min(1.0, cosine))))
        size = 13 if mark == "*" else 7
        below.plot(angle, length, mark, color=colour, ms=size, label=f"{name}: {length:.2f} ×, {angle:.0f}°", ls="none")
    below.axhline(1, color=GREY, lw=0.8, zorder=0)
    below.set(xlabel="angle to one process with all 64 pairs, degrees", ylabel="length of the gradient", yscale="log")
    below.set_yticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
    below.minorticks_off()
    below.set_ylim(0.2, 5)
    figure.legend(loc="outside lower left", fontsize=9.5)
    return figure


REFERENCE = "one process"
SCHEMES: Mapping[str, tuple[int, Callable[[Tensor, slice], Tensor], float]] = {
    REFERENCE: (1, lambda x, own: x, 1.0),
    "jemb: gather with gradient": (4, lambda x, own: x, 1.0),
    "no gather": (4, lambda x, own: x[own], 1.0),
    "rows of others without gradient": (4, lambda x, own: cut_off(x, own), 1.0),
    "gathered gradient averaged": (4, lambda x, own: x.detach() + (x - x.detach()) / 4, 1.0),
    "loss times processes": (4, lambda x, own: x, 4.0),
}  # fmt: skip
"""Name: (processes, all rows -> the candidates of a process, factor of its loss)."""


def cut_off(x: Tensor, own: slice) -> Tensor:
    """No gradient flows to the rows that another process holds."""
    return torch.cat([x[: own.start].detach(), x[own], x[own.stop :].detach()])


def flow(
    encoder: Encoder, samples: list[Sample], scheme: tuple[int, Callable[[Tensor, slice], Tensor], float]
) -> Tensor:
    """The gradient of all parameters, end to end: mean over the processes, as DDP takes it."""
    processes, candidates, factor = scheme
    encoder.zero_grad()
    query, positive, query_hash, positive_hash = embed(encoder, samples)
    size = len(samples) // processes
    total = torch.zeros(())
    for number in range(processes):
        own = slice(number * size, (number + 1) * size)
        seen = len(candidates(query, own))
        offset = own.start if seen == len(samples) else 0
        rows = [
            Rows(x[own], candidates(x, own), hashes[own], hashes if seen == len(samples) else hashes[own])
            for x, hashes in ((query, query_hash), (positive, positive_hash))
        ]
        total = total + factor * Pairs()(Texts(*rows, offset=offset)).total
    (total / processes).backward()
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


def embed(encoder: Encoder, samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vectors of queries and positives, and hashes of both."""
    batch = Collate(tokenize=encoder.tokenize, num_negatives=0, seed=0)(0, "", samples, ())
    return encoder(batch.query), encoder(batch.positive), batch.query_hash, batch.positive_hash


def triplets(demo: Path) -> Figure:
    """The lead of the positive over the negation, before and after phase two."""
    rows = list(read_lines(demo / "corpus" / "negation.jsonl"))
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 4.6), sharex=True)
    for run, colour, name in (("pairs", ORANGE, "before"), ("triplets", BLUE, "after")):
        encoder = load_encoder(str(demo / "runs" / run))
        a, p, n = (encode(encoder, [row[side] for row in rows]) for side in ("anchor", "entailment", "negative"))
        right = (a * p).sum(1)
        for axes, wrong in zip(panels, [(a * n).sum(1), (p * n).sum(1)], strict=True):
            lead = right - wrong
            label = f"{name} the triplet phase: {(lead > 0).mean():.1%} right"
            axes.hist(lead, np.linspace(-1, 1, 61), histtype="stepfilled", color=colour, alpha=0.55, label=label)
    for axes, far in zip(panels, ("query", "positive"), strict=True):
        axes.axvline(0, color="#555", lw=1)
        axes.set_title(f"s(query, positive) − s({far}, negation)", fontsize=11, loc="left")
        axes.set_ylabel("triplets", fontsize=9.5)
        axes.margins(y=0.45)
        axes.legend(loc="upper left", fontsize=9.5, frameon=True, framealpha=1, edgecolor="none")
    panels[1].set_xlabel(f"lead of the positive, {len(rows)} held-out triplets")
    panels[1].set_xlim(-0.8, 0.8)
    return figure


def read_lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from map(json.loads, file)


PICTURES = {function.__name__: function for function in (journey, minhash, consistency, batches, gradients, triplets)}


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    demo = Path(sys.argv[1])
    HERE.mkdir(exist_ok=True)
    matplotlib.use("svg")
    plt.rcParams.update(STYLE)
    for name in sys.argv[2:] or PICTURES:
        figure = PICTURES[name](demo)
        figure.savefig(HERE / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(figure)
        print(HERE / f"{name}.svg")


if __name__ == "__main__":
    main()
