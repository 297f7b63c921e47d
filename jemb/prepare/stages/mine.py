"""Hard negatives: for each query, passages that an encoder finds near it and that do not answer it: positives of other
rows, and documents of a corpus of the user's.

Before: `consistency.py` and `negation.py`. After: `cross_encoder.py` looks at each of them more closely. The bound of
95 % of the positive's score is that of NV-Retriever (arXiv 2407.15831), the random draw of 7 among the first 20 that of
nomic-embed; that a cross-encoder looks for right answers among the candidates is RocketQA's (arXiv 2010.08191).

    corpus -> `read_corpus` -> files of documents
    both   -> `embed`       -> a vector for each distinct text
           -> `Pool`        -> ids, vectors and texts of the passages to choose from, each text once
           -> search        -> nearest passages of each query -> the cross-encoder's word on them -> some are drawn
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from jemb.config import Positive, options
from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.table import Dropped, Rows, Table, key_of, scrambled
from jemb.prepare.engine.verdicts import add_up, histogram, write_negatives
from jemb.prepare.registry import StageInputs, Statistic, Tools, model_files, stage
from jemb.prepare.source.corpus import Corpus, find_corpus, read_corpus
from jemb.prepare.stages.cross_encoder import BINS as LEAD_BINS
from jemb.prepare.stages.cross_encoder import LARGEST, CrossEncoderConfig, Relevance, score_answers
from jemb.prepare.vectors.embeddings import Embeddings, embed
from jemb.prepare.vectors.hard_negatives import (
    NONE,
    Flags,
    Mined,
    Numbers,
    Queries,
    Scores,
    contains,
    find_negatives,
    hashes,
    pair_keys,
)
from jemb.prepare.vectors.pool import Pool

log = logging.getLogger(__name__)

Judge = Callable[[Sequence[tuple[str, Sequence[str]]]], list[Relevance]]
"""(query, answers) of some rows -> what a cross-encoder says of each."""
BINS = 40
RERANKED_ROWS = 1024
"""Rows whose candidates are scored at once: memory is that of their texts and tokens."""
RIGHT = "right.npy"
"""`pair_keys` of queries with what was found to answer them, sorted."""
SHOWN, LENGTH = 5, 300
"""Rows that the report shows with their negatives, and characters of a text."""


@options
class MineConfig:
    """Hard negatives: passages that an encoder finds near the query, other than its positives. They follow those that a
    row has."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Encoder that ranks the passages: a folder, also that of a finished run of `jemb train`, or a Hugging Face name.
    Its prompts are put before queries and passages. Other data are asked for once the folder holds another model."""
    corpus: str | None = None
    """Documents of yours to choose from beside the data set's positives: a file, folder, URL or `hf:NAME[:CONFIG
    [:SPLIT]]`, as `input` has them; each record is a document. null: none."""
    corpus_field: str = "text"
    """Field of the corpus with the text of a document."""
    pool_size: Annotated[int, Field(ge=0)] = 1_000_000
    """Passages drawn from the same data set's positives to choose from; a smaller data set is its own pool. 0: none,
    only documents of `corpus`, which are always all looked at."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Passages passed over at the top of the ranking, as the likeliest to be right answers after all."""
    top: Positive = 20
    """Passages after those that may become negatives."""
    num_negatives: Positive = 7
    """Negatives drawn at random of what `top` and the bounds leave; fewer where fewer are left."""
    max_share: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    """A negative's cosine may be at most this share of the positive's; (0, 1], null: no such bound."""
    margin: Annotated[float, Field(ge=0, le=2)] | None = None
    """And at most the positive's less this; 0 to 2, null: no such bound."""
    rerank: str | None = None
    """Cross-encoder that looks at the `top` passages that keep the bounds, a folder or a Hugging Face name with one
    output: what it finds to answer the query as well becomes no negative. null: none."""
    rerank_margin: Annotated[float, Field(allow_inf_nan=False)] = 0.2
    """What the positive must score more than a negative by `rerank`, in its raw output."""
    relabel_margin: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """A passage that `rerank` scores higher than the positive by this or more becomes a further positive of the row; 0:
    one that is as good. null: none does."""
    without_negatives: Literal["keep", "drop"] = "keep"
    """What becomes of a row for which no negative is left, often one whose positive the encoder does not find: kept, it
    is trained on with the other rows' positives and negatives."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a text is cut at for the encoder; null: the encoder's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the encoder on a GPU. `fp32` keeps the rows that a CPU keeps; `bf16` is several times as fast and
    decides otherwise on one or two rows of a thousand. A CPU computes in fp32."""
    batch_tokens: Positive | None = None
    """Tokens encoded at once, padding included; null: what suits the device."""
    cache: str | None = None
    """Folder in which vectors are kept, to be found again by later jobs with the same texts and encoder; null: none."""

    def __post_init__(self) -> None:
        if self.num_negatives > self.top:
            raise ValueError(f"mine.num_negatives={self.num_negatives} is more than mine.top={self.top} passages")
        if not self.pool_size and self.corpus is None:
            raise ValueError("mine.pool_size=0 leaves nothing to choose from; wanted a number, or mine.corpus=…")
        if self.relabel_margin is not None and self.rerank is None:
            raise ValueError(f"mine.relabel_margin={self.relabel_margin:g} goes with mine.rerank=MODEL")
        if self.relabel_margin is not None and self.relabel_margin < -self.rerank_margin:
            raise ValueError(
                f"mine.relabel_margin={self.relabel_margin:g} is below -mine.rerank_margin, {-self.rerank_margin:g}: a "
                "passage could be a negative and a positive"
            )


def _look(options: MineConfig, tools: Tools) -> tuple[Corpus | None, dict[str, Any]]:
    """The corpus, and what the result depends on beside the options: what is in it, and in folders of models."""
    settings = model_files("encoder", tools.encoder(options), options.encoder)
    if options.rerank is not None:
        settings |= model_files("rerank", tools.cross_encoder(CrossEncoderConfig()), options.rerank)
    if options.corpus is None:
        return None, settings
    corpus = find_corpus(options.corpus, options.corpus_field)
    return corpus, settings | corpus.settings()


@stage(
    "mine",
    reasons={"no_negative": "no negative is left, in data that have negatives"},
    options=MineConfig,
    of_answers=True,
    statistics={
        "positive": Statistic("Similarity of query and positive", axis="cosine"),
        "negative": Statistic("Similarity of query and mined negatives", "negatives", "cosine"),
        "rows": Statistic("Rows by number of mined negatives"),
        "source": Statistic("Where mined negatives come from", "negatives"),
        "corpus": Statistic("Records of the corpus", "records"),
        "reranked": Statistic("What the cross-encoder says of candidates", "candidates"),
        "lead": Statistic("Lead of the positive over a candidate", "candidates", "r(q, p) − r(q, n)", "rerank_margin"),
    },
    before=_look,
    after="negation",
    whole=True,
    adds_negatives=True,
    speed_only=("batch_tokens", "cache"),
    advice="the bounds leave no passage: raise mine.max_share or mine.top, or keep such rows "
    "(mine.without_negatives=keep)",
)
def mine(table: Table, job: Job, options: MineConfig, inputs: StageInputs) -> Dropped:
    """Give each row up to `num_negatives` hard negatives. A row that has none after that stays, or is dropped as
    `no_negative` with `without_negatives=drop`.
    With `relabel_margin` also further positives: candidates that the cross-encoder finds as good as the positive.

    They are left beside the pieces, in the job's folder (`table.changes_file`), for all live rows. No negative equals
    the query, a positive of any row with an equal query, or a negative the row has already, white space and case apart.
    The result is a function of rows, documents, vectors, options and seed. Statistics: histograms of the cosine of each
    query with its `positive` and with its mined `negative` passages; `rows` by the number of negatives mined; their
    `source`; records of the `corpus`; candidates `reranked`, and the `lead` of the positive over them; some rows to be
    shown.
    Memory: that of `embed`, and 60 bytes a row, 40 a document; of a worker, the texts that a piece is given.
    Disk: 4 * D bytes for each text and passage.
    """
    counts = table.counts()
    if not sum(counts):
        return Dropped(np.empty(0, np.int64), np.empty(0, np.int64), "no_negative")
    documents = read_corpus(inputs.prepared, job) if inputs.prepared else None
    files = documents.files if documents else ()
    embeddings = embed(table, job, options.encoder, inputs.tools.encoder(options), options.cache, files)
    pool = Pool(table, job.folder, documents)
    pool.make(job, embeddings, options.pool_size, inputs.seed)
    score: Judge | None = None
    if options.rerank is not None:
        score = partial(score_answers, inputs.tools.cross_encoder(CrossEncoderConfig()), options.rerank)
    tasks = list(enumerate(np.cumsum([0, *counts[:-1]]).tolist()))
    results = job.map(
        "search",
        partial(_mine_piece, pool, embeddings, options, inputs.seed, score),
        tasks,
        sizes=counts,
        gpu=True,
    )
    statistics = add_up(result["statistics"] for result in results)
    if options.relabel_margin is not None:
        right = np.array([key for result in results for key in result["right"]], np.uint64)
        write_array(job.folder / RIGHT, np.unique(right))
        left = job.map("take back", partial(_take_back, pool), range(len(counts)), sizes=counts)
        if taken := sum(before["negatives"] - after["negatives"] for before, after in zip(results, left, strict=True)):
            statistics["reranked"]["answers another row's query"] = taken
        without = [row for result in left for row in result["without"]]
    else:
        without = [row for result in results for row in result["without"]]
    shown = sorted((row for result in results for row in result["shown"]), key=lambda row: int(row["order"]))
    statistics["shown"] = [row["texts"] for row in shown[:SHOWN]]
    if documents:
        statistics["corpus"] = documents.statistics
    if without and options.without_negatives == "keep":
        log.info("%s: mine finds no negative for %d of %d rows, which stay", job.label, len(without), sum(counts))
        without = []
    ids = np.array(without, np.int64)
    return Dropped(ids, np.zeros_like(ids), "no_negative", statistics=statistics)


def _mine_piece(
    pool: Pool,
    embeddings: Embeddings,
    config: MineConfig,
    seed: int,
    score: Judge | None,
    task: tuple[int, int],
) -> dict[str, Any]:
    """Leave the negatives of the rows of a piece. task: its number, and live rows before it. Returns what was found:
    how many negatives the rows have now, ids of those without, `pair_keys` of right answers, rows to show, statistics.
    """
    from jemb.prepare.vectors.scoring import exact_scores

    piece, start = task
    rows = pool.table.read(piece, ("query", "positive", "negatives", "more_positives"))
    numbers, positives = embeddings.numbers(start, start + len(rows))
    own = exact_scores(embeddings.take(numbers), embeddings.take(positives))
    queries = Queries(rows.ids, numbers, np.load(pool.hash_file(piece))[0], own, rows.negatives)
    judge = partial(_leads, score, rows, pool.read_texts) if score else None
    mined = find_negatives(queries, embeddings.take, pool.passages(), pool.known(), config, seed, judge)
    is_negative = mined.passages != NONE
    texts = pool.read_texts(np.unique(np.concatenate([mined.passages[is_negative], mined.right[:, 1]])))
    negatives = [
        (*had, *(texts[passage] for passage in passages if passage != NONE))
        for had, passages in zip(rows.negatives, mined.passages.tolist(), strict=True)
    ]
    further = list(rows.more_positives)
    for row, passage in mined.right.tolist():
        further[row] += (texts[passage],)
    write_negatives(pool.folder, piece, rows.ids, negatives, further if len(mined.right) else None)
    num_mined, times = np.unique(np.count_nonzero(is_negative, axis=1), return_counts=True)
    statistics: dict[str, Any] = {
        "positive": histogram(own, BINS, -1.0, 1.0),
        "negative": histogram(mined.scores[is_negative], BINS, -1.0, 1.0),
        "rows": dict(zip(map(str, num_mined.tolist()), times.tolist(), strict=True)),
    }
    if pool.documents:
        from_corpus = int(np.count_nonzero(pool.are_documents(mined.passages[is_negative])))
        positives_used = int(np.count_nonzero(is_negative)) - from_corpus
        statistics["source"] = {"corpus": from_corpus, "positives of the data set": positives_used}
    if score:
        wrong = int(np.count_nonzero(mined.lead <= config.rerank_margin))
        statistics["reranked"] = {"negative": len(mined.lead) - wrong, "answers the query": wrong - len(mined.right)}
        if config.relabel_margin is not None:
            statistics["reranked"]["further positive"] = len(mined.right)
        statistics["lead"] = histogram(mined.lead, LEAD_BINS, -LARGEST, LARGEST)
    right = pair_keys(queries.hashes[mined.right[:, 0]], hashes([texts[n] for n in mined.right[:, 1].tolist()]))
    shown = _some_rows(rows, own, mined, texts, seed)
    return _left(rows, negatives) | {"right": right.tolist(), "shown": shown, "statistics": statistics}


def _leads(
    score: Judge,
    rows: Rows,
    read_texts: Callable[[Numbers], dict[int, str]],
    chosen: Numbers,
    found: Numbers,
    asked: Flags,
) -> Scores:
    """r(q, p) - r(q, n) of each passage n that is `asked` for; 0 for the others, [B, K].

    chosen: [B], places in `rows`. found, asked: [B, K]. read_texts: passages, which ascend, to their texts.
    """
    lead = np.zeros(asked.shape, np.float32)
    for start in range(0, len(chosen), RERANKED_ROWS):
        part = slice(start, start + RERANKED_ROWS)
        texts = read_texts(np.unique(found[part][asked[part]]))
        answers: list[tuple[str, list[str]]] = []
        for row, passages, which in zip(chosen[part].tolist(), found[part], asked[part], strict=True):
            others = [texts[passage] for passage in passages[which].tolist()]
            answers.append((rows.query[row], [rows.positive[row], *others] if others else []))
        for place, relevance in enumerate(score(answers), start):
            lead[place, asked[place]] = relevance[:1] - relevance[1:]
    return lead


def _take_back(pool: Pool, piece: int) -> dict[str, Any]:
    """Take from the negatives of a piece what turned out to be a right answer of a row with an equal query."""
    right = np.load(pool.folder / RIGHT)
    rows = pool.table.judged(pool.folder).read(piece, ("query", "negatives", "more_positives"))
    left = []
    for query, texts in zip(hashes(rows.query)[:, None], rows.negatives, strict=True):
        is_right = contains(right, pair_keys(query, hashes(texts)))
        left.append(tuple(text for text, answers in zip(texts, is_right.tolist(), strict=True) if not answers))
    if left != rows.negatives:
        write_negatives(pool.folder, piece, rows.ids, left, rows.more_positives)
    return _left(rows, left)


def _left(rows: Rows, negatives: list[tuple[str, ...]]) -> dict[str, Any]:
    """How many negatives the rows have, and the ids of those that have none."""
    return {
        "negatives": sum(map(len, negatives)),
        "without": [row for row, texts in zip(rows.ids.tolist(), negatives, strict=True) if not texts],
    }


def _some_rows(rows: Rows, own: Relevance, mined: Mined, texts: dict[int, str], seed: int) -> list[dict[str, Any]]:
    """A few rows with what was mined for them, for a reader of the report; in the order of a draw."""
    with_some = np.flatnonzero((mined.passages != NONE).any(axis=1))
    orders = scrambled(rows.ids[with_some], seed, "mine shown")
    found = []
    for place in np.argsort(orders)[:SHOWN].tolist():
        row = int(with_some[place])
        lines = [["query", rows.query[row]], [f"positive, cosine {own[row]:.3f}", rows.positive[row]]]
        lines += [["further positive", texts[passage]] for place, passage in mined.right.tolist() if place == row]
        lines += [
            [f"negative, cosine {score:.3f}", texts[passage]]
            for passage, score in zip(mined.passages[row].tolist(), mined.scores[row].tolist(), strict=True)
            if passage != NONE
        ]
        shown = [[f"Row {key_of(int(rows.ids[row]))}", ""], *([name, text[:LENGTH]] for name, text in lines)]
        found.append({"order": int(orders[place]), "texts": shown})
    return found
