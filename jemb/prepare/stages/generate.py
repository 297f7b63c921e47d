"""Queries for documents that have none, by a chat model (InPars, arXiv 2202.05144; doc2query, arXiv 1904.08375).

It runs as the source is read, before the rows have numbers: each document becomes a row for each query that is made of
it, with the document as its positive. Such queries are often about nothing in the document, or about too much; so
`consistency` is to follow, which keeps those that find their document again.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from jemb.config import Positive, options
from jemb.config.types import PositiveReal, Seed
from jemb.core.errors import InputError
from jemb.core.files import create, read_json, sync_folder, write_json
from jemb.core.progress import Progress
from jemb.core.text import listed_texts, normalise
from jemb.prepare.chat import Answer, Answers, Chat, RefusedError, check_endpoint, read_key
from jemb.prepare.engine.job import Job
from jemb.prepare.registry import MadeRows, StageInputs, Statistic, Tools, stage
from jemb.prepare.source.check import check_names
from jemb.prepare.source.parts import Summary, parts, read_part
from jemb.prepare.source.record_fields import Row
from jemb.prepare.source.sources import Source
from jemb.shards import cache_home
from jemb.tables.places import base_name
from jemb.tables.records import Bad, excerpt

log = logging.getLogger(__name__)

AHEAD = 100
"""Documents for each request at once that are asked about, before those after them."""
MADE, COUNTS = "made.jsonl", "made.json"
"""The rows, and the marker that they are all there, with what else is to be said of them."""
PROMPT = (
    "Write {num_queries} search queries, each of which the following document answers. Write them as different people "
    "would type them, in the language of the document, without copying its sentences. Give one query a line and "
    "nothing else.\n\nDocument:\n{document}"
)
THOUGHT = re.compile(r"^\s*<think>(?!.*</think>).*|^.*?</think>", re.DOTALL)
"""What a model thought, to its end; all there is where that was cut off."""
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LIST_SIGN = re.compile(r"^(?:[-*•]|\(?\d{1,3}[.):])\s+")
QUOTES = ('""', "''", "“”", "«»", "„“", "``")


@options
class GenerateConfig:
    """Queries for documents: rows with a positive and no query are given queries by a chat model."""

    endpoint: str | None = None
    """Base URL of an OpenAI-compatible API, `http://127.0.0.1:8000/v1`, which is asked at `/chat/completions`. Required
    where the stage runs; where it is says nothing of the data, so it is not in the manifest."""
    model: str | None = None
    """The model's name there. Required where the stage runs."""
    num_queries: Positive = 1
    """Queries to ask for, for each document, in one request; each becomes a row."""
    prompt: str = PROMPT
    """What the model is told; `{document}` and `{num_queries}` stand for these. The answer is to have one query a
    line."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """Of sampling, as the API has it; 0: always the likeliest word."""
    max_tokens: Positive = 256
    """Most tokens of an answer. The last line of one that was cut there is not used."""
    seed: Seed = 0
    """Seed of sampling, sent with each request, of which servers may take no notice; another one asks anew."""
    max_characters: Positive = 8000
    """Characters of a document that the model is shown; the row has all of it."""
    key_variable: str | None = None
    """Name of the environment variable with the key for the endpoint, as `OPENAI_API_KEY`; null: no key is sent. The
    key itself is written to no file, log or manifest."""
    requests_per_minute: PositiveReal | None = None
    """Requests that may begin in a minute, evenly spread, repeated ones included; null: any number."""
    concurrency: Positive = 8
    """Requests at once. All come from this process, also with `executor=ray`."""
    timeout: PositiveReal = 120.0
    """Seconds for an answer, after which the request is repeated: six times, as after a lost connection, 429 or 5xx,
    after half a second, one, two and so on, or what `Retry-After` says. Then the job ends, and the same command goes
    on."""
    cache: str | None = None
    """Folder for answers by content: the same document, prompt, model and sampling are asked once, by any job. null:
    `$JEMB_CACHE/answers`."""

    def __post_init__(self) -> None:
        if "{document}" not in self.prompt:
            raise ValueError("generate.prompt: wanted {document} in it, where the document is to stand")
        if self.key_variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise ValueError(  # which may be the key itself, so it is not shown
                "generate.key_variable: wanted the name of an environment variable, as OPENAI_API_KEY, not a key"
            )


def check(options: GenerateConfig, tools: Tools) -> tuple[None, dict[str, Any]]:
    """`InputError` before any work."""
    for option in ("endpoint", "model"):
        if getattr(options, option) is None:
            raise InputError(f"generate.{option}: missing; the stage generate wants generate.{option}=…")
    check_endpoint(str(options.endpoint))
    return None, {}


@stage(
    "generate",
    reasons={
        "no_query": "the model's answer holds no usable query",
        "refused": "the endpoint refused the document",
    },
    options=GenerateConfig,
    statistics={
        "queries": Statistic("Queries", "queries"),
        "documents": Statistic("Documents", "documents"),
    },
    source=True,
    before=check,
    after=None,
    speed_only=("endpoint", "key_variable", "requests_per_minute", "concurrency", "timeout", "cache"),
    wanted_with=("endpoint", "model"),
    advice="the answers are no lists of queries, one a line: another generate.prompt or model",
)
def generate(source: Source, job: Job, options: GenerateConfig, inputs: StageInputs) -> MadeRows:
    """Rows of documents. A row that has a query stays as it is, and nothing is asked for it.

    Reasons, which count documents: `no_query` (nothing in the answer is a query, or only what equals the document),
    `refused` (HTTP 400, 413 or 422). Statistics: `queries` `made` and `given`; `documents` `short` of the queries asked
    for, and `cut` at `max_characters`. Answers are cached before they are used: a killed job asks for none again.
    """
    made, marker = job.folder / MADE, job.folder / COUNTS
    rows = Source(source.name, "jsonl", (str(made),), constants=source.constants, license=source.license)
    if marker.exists():
        return MadeRows(rows, **read_json(marker))
    unreadable: list[dict[str, Any]] = []
    names: Counter[str] = Counter()
    documents = sum(1 for _ in _read(source, unreadable, names))
    check_names(source, names)
    answers = Answers(Path(options.cache).expanduser() if options.cache else cache_home() / "answers")
    chat = Chat(
        str(options.endpoint),
        key=read_key(options.key_variable),
        timeout=options.timeout,
        per_minute=options.requests_per_minute,
    )
    dropped: Counter[str] = Counter({"no_query": 0, "refused": 0})
    queries: Counter[str] = Counter(made=0, given=0)
    counts: Counter[str] = Counter(short=0, cut=0)
    asked, bad = 0, ""
    left = _read(source, [], Counter())
    temporary = made.with_suffix(".partial")
    with create(temporary) as file, Progress(f"{source.name}: generate", documents, "document") as progress:
        while some := list(islice(left, AHEAD * options.concurrency)):
            found = _answers_of({row.positive: None for row in some if not row.query.strip()}, options, chat, answers)
            asked += len(found)
            for row in some:
                progress.update()
                if row.query.strip():
                    queries["given"] += 1
                    file.write(_line(row, row.query))
                    continue
                answer = found[row.positive]
                texts = [] if isinstance(answer, str) else queries_in(answer, row.positive, options.num_queries)
                queries["made"] += len(texts)
                counts["cut"] += len(row.positive) > options.max_characters
                counts["short"] += 0 < len(texts) < options.num_queries
                if not texts:
                    dropped["refused" if isinstance(answer, str) else "no_query"] += 1
                    bad = bad or (excerpt(answer) if isinstance(answer, str) else repr(excerpt(answer.text)))
                file.writelines(_line(row, text) for text in texts)
    temporary.replace(made)
    sync_folder(made.parent)
    answers.close()
    log.info("%s: generate asked %d times; %d answers were there", source.name, asked - answers.known, answers.known)
    if any(dropped.values()):
        log.warning(
            "%s: generate has no query for %d documents: %d answers without one, %d refused by the endpoint. "
            "The first: %s",
            source.name, dropped.total(), dropped["no_query"], dropped["refused"], bad,
        )  # fmt: skip
    found_out = {"dropped": dict(dropped), "statistics": {"queries": queries, "documents": counts}}
    write_json(marker, {**found_out, "unreadable": unreadable})
    return MadeRows(rows, **read_json(marker))


def _answers_of(
    documents: Iterable[str], options: GenerateConfig, chat: Chat, answers: Answers
) -> dict[str, Answer | str]:
    """The answer for each document, or a text that says why it was refused."""
    with ThreadPoolExecutor(options.concurrency) as pool:
        try:
            return dict(zip(documents, pool.map(partial(_answer, options, chat, answers), documents), strict=True))
        except BaseException as error:
            chat.stop(error)  # what is being answered is waited for, and kept
            raise


def _answer(options: GenerateConfig, chat: Chat, answers: Answers, document: str) -> Answer | str:
    if not document.strip():
        return Answer("", True)
    request = request_of(document, options)
    answer = answers.get(request)
    if answer is None:
        try:
            answer = chat.ask(request)
        except RefusedError as error:
            return str(error)
        answers.put(request, answer)
    return answer


def request_of(document: str, options: GenerateConfig) -> bytes:
    """The body of the request for a document's queries: all that the answer depends on."""
    values = {"document": document[: options.max_characters], "num_queries": str(options.num_queries)}
    prompt = re.sub(r"\{(document|num_queries)\}", lambda found: values[found[1]], options.prompt)
    body = {
        "model": options.model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "seed": options.seed,
    }
    return json.dumps(body, sort_keys=True).encode()


def queries_in(answer: Answer, document: str, most: int) -> list[str]:
    """The queries of an answer, one a line or in a JSON list, at most `most`, each once.

    Left out are what the model thought, what stands around a code block, signs and numbers of a list, quotation marks
    around a line, lines of signs alone, a first line that announces the others, a last one that was cut off, and the
    document itself.
    """
    text = THOUGHT.sub("", answer.text)
    if block := FENCED.search(text):
        text = block[1]
    lines = [" ".join(line.split()) for line in listed_texts(text) or text.splitlines()]
    lines = [line for line in lines if any(map(str.isalnum, line))][: None if answer.whole else -1]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    lines = [_bare(line) for line in lines]
    own = normalise(document)
    found: dict[str, str] = {}
    for line in lines:
        if normalise(line) not in ("", own):
            found.setdefault(normalise(line), line)
    return list(found.values())[:most]


def _bare(line: str) -> str:
    line = LIST_SIGN.sub("", line)
    line = line[:-1] if line[:1] == '"' and line[-2:] == '",' else line  # of a list in JSON that was cut off
    return line[1:-1].strip() if len(line) > 1 and line[0] + line[-1] in QUOTES else line


def _read(source: Source, unreadable: list[dict[str, Any]], names: Counter[str]) -> Iterator[Row]:
    """Every document in order. What is none goes to `unreadable`; names: field -> records that have it."""
    lines: Counter[str] = Counter()
    without = replace(source, constants={}, documents=True)  # what is written here gets its constants when it is read
    for part in parts(source):
        summary = Summary()
        for item in read_part(part, without, summary):
            if isinstance(item, Bad):
                row = asdict(item) | {"file": base_name(part.path), "line": item.line + lines[part.path]}
                unreadable.append(row)
            else:
                yield item
        lines[part.path] += summary.lines
        names.update(summary.names)


def _line(row: Row, query: str) -> bytes:
    value: dict[str, Any] = {"query": query, "positive": row.positive}
    more = {"negatives": row.negatives, "scores": row.scores}
    if row.more_positives:
        more["positives"] = (row.positive, *row.more_positives)
    value |= {name: list(items) for name, items in more.items() if items}
    if row.score is not None:
        value["score"] = row.score
    if row.label is not None:
        value["label"] = json.loads(row.label)
    return json.dumps(value | (json.loads(row.extra) if row.extra else {}), ensure_ascii=False).encode() + b"\n"
