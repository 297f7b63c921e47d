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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from jemb.config import Positive, options
from jemb.core.files import write_array
from jemb.prepare.engine.job import Job
from jemb.prepare.engine.order import scrambled
from jemb.prepare.engine.table import Dropped, Rows, Table, add_up, histogram, key_of, write_negatives
from jemb.prepare.registry import StageInputs, Statistic, Tools, model_files, stage
from jemb.prepare.source.corpus import Corpus, find_corpus, read_corpus
from jemb.prepare.stages.cross_encoder import BINS as LEAD_BINS
from jemb.prepare.stages.cross_encoder import LARGEST, CrossEncoderConfig
from jemb.prepare.vectors.hard_negatives import NONE, Mined, Queries, contains, find_negatives, hashes, pair_keys
from jemb.prepare.vectors.pool import Pool
from jemb.prepare.vectors.relevance import Reranker

if TYPE_CHECKING:
    from jemb.prepare.vectors.embeddings import Embeddings
    from jemb.prepare.vectors.scoring import Exact

log = logging.getLogger(__name__)

BINS = 40
SHOWN, LENGTH = 5, 300
"""Rows that the report shows with their negatives, and characters of a text."""


@options
class MineConfig:
    """Hard negatives: passages that an encoder finds near the query, other than its positives."""

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
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least cosine of a negative; -1 to 1, null: no such bound."""
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
    replace: bool = False
    """Put mined negatives in the place of those a row has; else they follow them."""
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
        settings |= model_files("rerank", tools.cross_encoder(_reranking(options.rerank)), options.rerank)
    if options.corpus is None:
        return None, settings
    corpus = find_corpus(options.corpus, options.corpus_field)
    return corpus, settings | corpus.settings()


def _reranking(model: str) -> CrossEncoderConfig:
    return CrossEncoderConfig(model=model)


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
    Disk: 4 * D bytes for each text and passage, and the pool's texts.
    """
    counts = table.counts()
    if not sum(counts):
        return Dropped(np.empty(0, np.int64), np.empty(0, np.int64), "no_negative")
    from jemb.prepare.vectors.embeddings import embed

    documents = read_corpus(inputs.prepared, job) if inputs.prepared else None
    texts = documents.texts if documents else None
    embeddings = embed(table, job, options.encoder, inputs.tools.encoder(options), options.cache, texts)
    pool = Pool(table, job.folder, tuple(counts), documents)
    pool.make(job, embeddings, options.pool_size, inputs.seed)
    pieces = range(table.num_pieces)
    reranker = None
    if options.rerank is not None:
        reranker = Reranker(inputs.tools.cross_encoder(_reranking(options.rerank)), options.rerank)
    search = partial(_mine_piece, pool, embeddings, options, inputs.seed, reranker)
    results = job.map("search", search, pieces, sizes=counts, gpu=True)
    if options.relabel_margin is not None:
        results += job.map("take back", partial(_take_back, pool), pieces, sizes=counts)
    without = [np.load(_without_file(job.folder, piece)) for piece in pieces]
    ids = np.concatenate(without)
    if options.without_negatives == "keep":
        if len(ids):
            log.info("%s: mine finds no negative for %d of %d rows, which stay", job.label, len(ids), sum(counts))
        ids = ids[:0]
    shown = sorted((row for result in results for row in result.pop("shown", ())), key=lambda row: int(row["order"]))
    statistics = add_up(results) | {"shown": [row["texts"] for row in shown[:SHOWN]]}
    if documents:
        statistics["corpus"] = documents.statistics
    return Dropped(ids, np.zeros_like(ids), "no_negative", statistics=statistics)


def _mine_piece(
    pool: Pool, embeddings: Embeddings, config: MineConfig, seed: int, reranker: Reranker | None, piece: int
) -> dict[str, Any]:
    """Leave the negatives of the rows of a piece, and the ids of those that have none; statistics of them."""
    from jemb.prepare.vectors.scoring import exact_scores

    rows = pool.table.read(piece, ("query", "positive", "negatives", "more_positives"))
    if not len(rows):
        write_array(_without_file(pool.folder, piece), rows.ids)
        write_array(_right_file(pool.folder, piece), np.empty(0, np.uint64))
        return {"shown": []}
    kept = [()] * len(rows) if config.replace else rows.negatives
    numbers, positives = embeddings.numbers(*pool.offsets[piece : piece + 2].tolist())
    own = exact_scores(embeddings.take(numbers), embeddings.take(positives))
    queries = Queries(rows.ids, numbers, np.load(pool.hash_file(piece))[0], own, kept)
    judge = partial(reranker.leads, rows, pool.read_texts) if reranker else None
    mined = find_negatives(queries, embeddings.take, pool.passages(), pool.known(), config, seed, judge)
    is_negative = mined.passages != NONE
    texts = pool.read_texts(np.unique(np.concatenate([mined.passages[is_negative], mined.right[:, 1]])))
    negatives = [
        (*had, *(texts[passage] for passage in passages if passage != NONE))
        for had, passages in zip(kept, mined.passages.tolist(), strict=True)
    ]
    further = list(rows.more_positives)
    for row, passage in mined.right.tolist():
        further[row] += (texts[passage],)
    of_query = queries.hashes[mined.right[:, 0]]
    write_array(
        _right_file(pool.folder, piece), pair_keys(of_query, hashes([texts[n] for n in mined.right[:, 1].tolist()]))
    )
    write_negatives(pool.folder, piece, rows.ids, negatives, further if len(mined.right) else None)
    write_array(_without_file(pool.folder, piece), rows.ids[[not found for found in negatives]])
    numbers_mined, times = np.unique(np.count_nonzero(is_negative, axis=1), return_counts=True)
    from_corpus = int(np.count_nonzero(pool.are_documents(mined.passages[is_negative])))
    statistics: dict[str, Any] = {
        "positive": histogram(own, BINS, -1.0, 1.0),
        "negative": histogram(mined.scores[is_negative], BINS, -1.0, 1.0),
        "rows": dict(zip(map(str, numbers_mined.tolist()), times.tolist(), strict=True)),
        "shown": _some_rows(rows, own, mined, texts, seed),
    }
    if pool.documents:
        positives_used = int(np.count_nonzero(is_negative)) - from_corpus
        statistics["source"] = {"corpus": from_corpus, "positives of the data set": positives_used}
    if reranker:
        relabelled = {"further positive": len(mined.right)} if config.relabel_margin is not None else {}
        statistics["reranked"] = {
            "negative": len(mined.lead) - len(mined.false),
            "answers the query": len(mined.false) - len(mined.right),
            **relabelled,
        }
        statistics["lead"] = histogram(mined.lead, LEAD_BINS, -LARGEST["logit"], LARGEST["logit"])
    return statistics


def _take_back(pool: Pool, piece: int) -> dict[str, Any]:
    """Take from the negatives of a piece what turned out to be a right answer of a row with an equal query."""
    right = np.unique(np.concatenate([np.load(_right_file(pool.folder, other)) for other in range(len(pool.counts))]))
    rows = pool.table.judged(pool.folder).read(piece, ("query", "negatives", "more_positives"))
    keys = hashes(rows.query).tolist()
    left = []
    for query, texts in zip(keys, rows.negatives, strict=True):
        is_right = contains(right, pair_keys(np.full(len(texts), query, np.uint64), hashes(texts)))
        left.append(tuple(text for text, answer in zip(texts, is_right.tolist(), strict=True) if not answer))
    # Kept first: whoever does this again after a kill finds none any more.
    taken = pool.folder / f"taken-{piece:06d}.npy"
    if not taken.exists():
        write_array(taken, np.array(sum(map(len, rows.negatives)) - sum(map(len, left))))
    count = int(np.load(taken))
    if count:
        write_negatives(pool.folder, piece, rows.ids, left, rows.more_positives)
        write_array(_without_file(pool.folder, piece), rows.ids[[not found for found in left]])
    return {"reranked": {"answers another row's query": count}} if count else {}


def _some_rows(rows: Rows, own: Exact, mined: Mined, texts: dict[int, str], seed: int) -> list[dict[str, Any]]:
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


def _right_file(folder: Path, piece: int) -> Path:
    """`pair_keys` of the queries of a piece with what was found to answer them."""
    return folder / f"right-{piece:06d}.npy"


def _without_file(folder: Path, piece: int) -> Path:
    return folder / f"without-{piece:06d}.npy"
