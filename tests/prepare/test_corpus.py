"""Mining in a user's own documents: against a brute-force loop, with a cross-encoder's word, and what is refused."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jemb.core.errors import InputError
from jemb.core.text import normalise
from jemb.prepare import StageInputs, Tools, prepare
from jemb.prepare.engine import read as reading
from jemb.prepare.engine.executor import LocalExecutor
from jemb.prepare.options import PrepareConfig
from jemb.prepare.report.page import make_report
from jemb.prepare.source.corpus import find_corpus
from jemb.prepare.stages import mine as mine_module
from jemb.prepare.stages.cross_encoder import load_scorer
from jemb.prepare.stages.mine import MineConfig, mine
from jemb.prepare.vectors import embeddings
from jemb.shards import ShardReader
from tests.helpers.prepare_tools import TOOLS
from tests.prepare.test_mine import WORDS, Everywhere, encode, make_rows

Row = tuple[str, ...]


def make_encoder(name: str) -> Callable[[Sequence[str]], Any]:
    return encode


def overlap_score(pairs: Sequence[tuple[str, str]]) -> Any:
    """A cross-encoder of one line: the words that query and passage share."""
    return np.array([len(set(a.lower().split()) & set(b.lower().split())) for a, b in pairs], np.float32)


def make_score(name: str) -> Callable[[Sequence[tuple[str, str]]], Any]:
    assert name == "judge"
    return overlap_score


def make_documents(rows: list[Row], count: int = 150) -> list[str]:
    """Random words; among them texts that rows have, in other case, and some twice."""
    draw = random.Random(3)
    documents = [" ".join(draw.sample(WORDS, 4)) + f" {number}" for number in range(count)]
    documents[10:13] = [rows[4][1].upper(), rows[4][0], rows[40][1]]
    documents[77] = documents[70]
    documents[78] = documents[71].title()
    return documents


def write_documents(path: Path, documents: Sequence[str], field: str = "text") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": n, field: text}) + "\n" for n, text in enumerate(documents)))
    return str(path)


def run(table: Any, job: Any, config: MineConfig, make: Any = make_encoder) -> tuple[dict[int, Row], dict[str, Any]]:
    assert config.corpus
    tools = Tools(lambda options: make, lambda options: make_score, lambda entry: [])
    prepared = find_corpus(config.corpus, config.corpus_field)
    dropped = mine(table, job, config, StageInputs(0, tools, prepared))
    judged = table.judged(job.folder)
    rows = [judged.read(piece) for piece in range(table.num_pieces)]
    found = {int(row): texts for part in rows for row, texts in zip(part.ids, part.negatives, strict=True)}
    return found, dropped.statistics


def brute_force(rows: list[Row], documents: list[str], config: MineConfig) -> list[list[str]]:
    passages: dict[str, str] = {}
    for text in [*(row[1] for row in rows if config.pool_size), *documents]:
        passages.setdefault(normalise(text), text)
    vectors = encode(list(passages.values())).astype(np.float64)
    result = []
    for query, positive, *had in rows:
        answers = {normalise(query), *(normalise(row[1]) for row in rows if normalise(row[0]) == normalise(query))}
        answers |= set(map(normalise, had))
        vector = encode([query])[0].astype(np.float64)
        limit = 0.95 * float(encode([positive])[0].astype(np.float64) @ vector)
        ranked = sorted(zip(vectors @ vector, passages, passages.values(), strict=True), key=lambda item: -item[0])
        texts = [(score, text) for score, key, text in ranked if key not in answers][: config.top]
        texts = [(score, text) for score, text in texts if config.max_share is None or score <= limit]
        if config.rerank:
            own = overlap_score([(query, positive)])[0]
            texts = [(s, text) for s, text in texts if own - overlap_score([(query, text)])[0] > config.rerank_margin]
        result.append([text for _, text in texts])
    return result


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool_size": 0},
        {"max_share": None},
        {"rerank": "judge", "max_share": None},
        {"rerank": "judge", "rerank_margin": -0.5, "max_share": None},
    ],
)
def test_with_all_drawn_it_is_the_brute_force(
    table: Any, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(reading, "PIECE_ROWS", 40)
    monkeypatch.setattr(mine_module, "RERANKED_ROWS", 16)
    load_scorer.cache_clear()
    rows = make_rows()
    documents = make_documents(rows)
    place = write_documents(tmp_path / "documents.jsonl", [*documents[:50], " \n", *documents[50:]])
    config = MineConfig(corpus=place, top=8, num_negatives=8, **options)
    negatives, statistics = run(table(rows, piece_rows=50), job(), config)
    expected = brute_force(rows, documents, config)
    assert [list(negatives[row][len(rows[row]) - 2 :]) for row in range(len(rows))] == expected
    assert statistics["corpus"] == {"read": 150, "blank": 1, "unreadable": 0}
    mined = [text for texts in expected for text in texts]
    of_corpus = sum(text in documents and text not in {row[1] for row in rows} for text in mined)
    of_rows = 0 if options.get("pool_size") == 0 else len(mined) - of_corpus
    assert statistics["source"] == {"corpus": len(mined) - of_rows, "positives of the data set": of_rows}
    assert of_corpus > 30
    if "rerank" in options:
        without = brute_force(rows, documents, replace(config, rerank=None))
        told = {"negative": len(mined), "answers the query": sum(map(len, without)) - len(mined)}
        assert statistics["reranked"] == told
        assert min(told.values()) > 20
        assert sum(statistics["lead"]["counts"]) == sum(told.values())


def test_what_answers_as_well_becomes_a_positive(table: Any, job: Any, tmp_path: Path) -> None:
    """By words that a passage shares with the query: the positive of the first has one, of the second two."""
    load_scorer.cache_clear()
    rows = [("balur kites modov", "balur suan"), ("suer moer kian", "suer moer basan")]
    documents = ["balur kites suer", "KITES suer modov", "modov tes", "no answer", "balur kites modov tes"]
    place = write_documents(tmp_path / "documents.jsonl", documents)
    given = table(rows, more={0: ("Balur kites modov tes",), 1: ("kept",)})
    options: dict[str, Any] = {
        "corpus": place, "pool_size": 0, "top": 9, "num_negatives": 9, "max_share": None, "rerank": "judge"
    }  # fmt: skip

    def positives(name: str, **more: Any) -> tuple[list[tuple[str, ...]], dict[str, Any]]:
        work = job(name)
        _, statistics = run(given, work, MineConfig(**options, **more))
        return given.judged(work.folder).read(0, ("more_positives",)).more_positives, statistics["reranked"]

    # Of the first row two documents share two words with the query and "modov tes" one, as the positive does; the last
    # is known to be right. Of the second all share fewer.
    found, told = positives("relabel", relabel_margin=0)
    assert [sorted(texts) for texts in found] == [
        ["Balur kites modov tes", "KITES suer modov", "balur kites suer", "modov tes"],
        ["kept"],
    ]
    assert found[0][0] == "Balur kites modov tes"
    assert told == {"negative": 1 + 5, "answers the query": 0, "further positive": 3}
    found, told = positives("clearly", relabel_margin=1)
    assert sorted(found[0]) == ["Balur kites modov tes", "KITES suer modov", "balur kites suer"]
    assert told == {"negative": 1 + 5, "answers the query": 1, "further positive": 2}
    found, told = positives("without")
    assert found == [("Balur kites modov tes",), ("kept",)]
    assert told == {"negative": 1 + 5, "answers the query": 3}


def test_a_right_answer_of_one_row_is_no_negative_of_another_with_its_query(
    table: Any, job: Any, tmp_path: Path
) -> None:
    """Of two rows with one query the first has a positive that shares one word with it, the second one that shares all:
    what shares two words answers the first, and would be, or is already, a negative of the second."""
    load_scorer.cache_clear()
    rows = [("balur kites modov", "balur suan"), ("Balur  kites modov", "modov kites balur tes", "balur kites suer")]
    place = write_documents(tmp_path / "documents.jsonl", ["balur kites suer", "KITES suer modov", "no answer"])
    options: dict[str, Any] = {
        "corpus": place, "pool_size": 0, "top": 9, "num_negatives": 9, "max_share": None, "rerank": "judge"
    }  # fmt: skip
    for name, piece_rows in (("apart", 1), ("together", 2)):
        given = table(rows, piece_rows=piece_rows)
        negatives, told = run(given, job(name), MineConfig(**options, relabel_margin=0))
        assert negatives == {0: ("no answer",), 1: ("no answer",)}
        assert told["reranked"] == {
            "negative": 1 + 2, "answers the query": 0, "further positive": 2, "answers another row's query": 2
        }  # fmt: skip
    negatives, _ = run(given, job("without"), MineConfig(**options))
    assert sorted(negatives[1]) == ["KITES suer modov", "balur kites suer", "no answer"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relabel_margin": 0}, "mine.relabel_margin=0 goes with mine.rerank=MODEL"),
        (
            {"rerank": "judge", "relabel_margin": -0.5},
            r"relabel_margin=-0.5 is below -mine.rerank_margin, -0.2: a passage could be a negative and a positive",
        ),
    ],
)
def test_what_cannot_be_relabelled(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MineConfig(**options)


@pytest.mark.slow
def test_parts_pieces_and_processes_do_not_show(
    table: Any, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows()
    place = write_documents(tmp_path / "documents.jsonl", make_documents(rows))
    config = MineConfig(corpus=place, top=12, num_negatives=3, rerank="judge", max_share=None)
    one = run(table(rows), job("one"), config)
    monkeypatch.setattr(reading, "PIECE_ROWS", 7)
    monkeypatch.setattr(reading, "parts", partial(reading.parts, part_bytes=1000))
    assert len(reading.parts(find_corpus(place, "text").sources[0])) > 5
    assert run(table(rows, piece_rows=11), job("many"), config) == one
    (tmp_path / "jobs" / "two").mkdir()
    with LocalExecutor(2) as executor:
        inputs = StageInputs(0, Tools(_give_encoder, _give_score, _no_texts), find_corpus(place, "text"))
        given, folder = table(rows, piece_rows=60), tmp_path / "jobs" / "two"
        dropped = mine(given, Everywhere(folder, executor, "two"), config, inputs)
    assert dropped.statistics == one[1]
    found = [given.judged(folder).read(piece).negatives for piece in range(2)]
    assert found[0] + found[1] == list(one[0].values())


def _give_encoder(options: Any) -> Any:
    return make_encoder


def _give_score(options: Any) -> Any:
    return make_score


def _no_texts(entry: str) -> list[str]:
    return []


def test_prompts_are_put_before_documents_too(table: Any, job: Any, tmp_path: Path) -> None:
    seen: list[str] = []

    class WithPrompts:
        def prompts(self, name: str) -> tuple[str, str]:
            return "ask ", "tell "

        def __call__(self, name: str) -> Any:
            return lambda texts: seen.extend(texts) or encode(texts)

    embeddings._encoder.cache_clear()
    place = write_documents(tmp_path / "documents.jsonl", ["ba lur", "mo dov"])
    run(table([("su an", "ki er")]), job(), MineConfig(corpus=place), WithPrompts())
    assert seen == ["tell ba lur", "tell mo dov", "ask su an", "tell ki er"]
    embeddings._encoder.cache_clear()


def test_the_cache_has_the_corpus_whatever_the_data_set(
    table: Any, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "BLOCK", 10)
    calls: list[list[str]] = []

    def named(name: str) -> Any:
        def kept(texts: Sequence[str]) -> Any:
            calls.append(list(texts))
            return encode(texts)

        kept.identity = "one"  # type: ignore[attr-defined]
        return kept

    documents = make_documents(make_rows())[:40]
    config = MineConfig(corpus=write_documents(tmp_path / "a.jsonl", documents), cache=str(tmp_path / "cache"))
    run(table(make_rows(60)[:20]), job("a"), config, named)
    calls.clear()
    run(table(make_rows(60, seed=9)[:20]), job("b"), config, named)
    # Three whole blocks of the 39 different documents are there; the fourth ends with a text of the data set.
    assert calls
    assert not set(documents[:29]) & {text for call in calls for text in call}
    embeddings._encoder.cache_clear()


# What is read, and what is refused.


def test_a_folder_of_files_and_another_field(
    table: Any, job: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_documents(tmp_path / "docs" / "a.jsonl", ["ba lur 1", "mo dov 2"], "body")
    (tmp_path / "docs" / "b.csv").write_text("id,body\n1,su an 3\n")
    config = MineConfig(corpus=str(tmp_path / "docs"), corpus_field="body", pool_size=0, max_share=None)
    negatives, statistics = run(table([("ba dov an", "ki er")]), job(), config)
    assert sorted(negatives[0]) == ["ba lur 1", "mo dov 2", "su an 3"]
    assert statistics["corpus"]["read"] == 3
    assert not caplog.messages, "nothing is said of fields that documents need not have"


def test_what_is_no_corpus_is_refused_before_any_work(tmp_path: Path) -> None:
    place = write_documents(tmp_path / "documents.jsonl", ["a"], "txt")
    with pytest.raises(InputError, match=r"documents\.jsonl: no field 'text' .*did you mean 'txt'.*mine\.corpus_field"):
        find_corpus(place, "text")
    with pytest.raises(InputError, match="no such file or folder"):
        find_corpus(str(tmp_path / "nothing"), "text")


@pytest.mark.parametrize("files", [1, 3])
def test_titles_beside_the_texts_are_said_once_not_to_be_read(
    files: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(files):
        (tmp_path / f"{number}.jsonl").write_text('{"_id": "1", "title": "Amber", "text": "It is a resin."}\n')
    find_corpus(str(tmp_path), "text")
    (said,) = caplog.messages
    place = tmp_path if files > 1 else tmp_path / "0.jsonl"
    assert said.startswith(f"{place}: its records have a title, which is not read: a document is the field 'text'")


def test_unreadable_documents(table: Any, job: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "documents.jsonl"
    good = [json.dumps({"text": f"word {number}"}) for number in range(300)]
    path.write_text("\n".join([*good, '{"text": 7}', '{"other": "x"}', '{"text": "\\ud800"}']))
    config = MineConfig(corpus=str(path))
    _, statistics = run(table([("a word", "b word")]), job("warned"), config)
    assert statistics["corpus"] == {"read": 300, "blank": 0, "unreadable": 3}
    assert "3 of 303 documents cannot be read. The first: " in caplog.text
    assert "documents.jsonl line 301: field 'text' is int (7); wanted text" in caplog.text
    path.write_text("\n".join([*good[:50], "{broken"]))
    with pytest.raises(InputError, match=r"1 of 51 documents cannot be read.*line 51: not JSON.*wanted at most 1%"):
        run(table([("a word", "b word")]), job("refused"), config)
    path.write_text('{"text": " "}\n')
    with pytest.raises(InputError, match="no document with text in 'text'"):
        run(table([("a word", "b word")]), job("blank"), config)
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress("\n".join(good * 200).encode())[:-2000])
    with pytest.raises(InputError, match="an unknown number of documents is lost; get the file again"):
        run(table([("a word", "b word")]), job("broken"), MineConfig(corpus=str(broken)))


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mine\.pool_size=0 leaves nothing"):
        MineConfig(pool_size=0)


# The whole job.


def test_a_changed_corpus_makes_another_data_set(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = [{"query": f"ask {a}", "positive": f"ask {a} {b}"} for a in WORDS[:6] for b in WORDS[6:9]]
    write_jsonl(tmp_path / "in" / "animals.jsonl", rows)
    place = write_documents(tmp_path / "here" / "documents.jsonl", [f"ask {word} here" for word in WORDS])

    def config(corpus: str, **more: Any) -> PrepareConfig:
        own = MineConfig(corpus=corpus, max_share=None, pool_size=0, num_negatives=2)
        return PrepareConfig(
            input=str(tmp_path / "in"), output=str(tmp_path / "out"), stages=["mine"], workers=1, mine=own, **more
        )

    (manifest,) = prepare(config(place), TOOLS)
    (row,) = (row for row in range(18) if ShardReader(tmp_path / "out" / "animals").key(row) == "000000000")
    assert all(text.endswith(" here") for text in ShardReader(tmp_path / "out" / "animals").read(row).negatives)
    assert manifest.stages[-1].settings["corpus"] == "documents.jsonl"
    assert "Examples of what mine gave rows" in make_report([manifest]).html()
    # Moved, it is the same; with other words in it, it is not.
    moved = write_documents(tmp_path / "there" / "documents.jsonl", [f"ask {word} here" for word in WORDS])
    assert prepare(config(moved), TOOLS) == [manifest]
    write_documents(tmp_path / "there" / "documents.jsonl", [f"ask {word} there" for word in WORDS])
    with pytest.raises(InputError, match=r"mine\.corpus_files was .*overwrite=true"):
        prepare(config(moved), TOOLS)
    prepare(config(moved, overwrite=True), TOOLS)
    assert all(text.endswith(" there") for text in ShardReader(tmp_path / "out" / "animals").read(row).negatives)


def test_a_run_is_an_encoder_and_its_next_model_another(table: Any, job: Any, tmp_path: Path) -> None:
    import torch

    from jemb.app.models import make_tools
    from jemb.config import ModelConfig
    from jemb.model import make_tiny
    from jemb.prepare.registry import all_stages

    rows = [(f"ask {word}", f"{word} answers") for word in WORDS]
    small = ModelConfig(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2)
    encoder = make_tiny([text for row in rows for text in row], small, seed=0, max_length=16)
    made = tmp_path / "run"
    made.mkdir()
    (made / "run.json").write_text('{"status": "finished"}')
    (made / "config.yaml").write_text("")
    config = MineConfig(encoder=str(made), corpus=write_documents(tmp_path / "c.jsonl", ["ask more", "answers none"]))
    model = replace(config, encoder=str(made / "model"))
    look, tools = all_stages()["mine"].before, make_tools()
    assert look
    with pytest.raises(InputError, match="this run has not finished"):
        look(config, tools)
    encoder.save(made / "model")
    prepared, before = look(config, tools)
    assert before["encoder_files"] == look(model, tools)[1]["encoder_files"]
    dropped = mine(table(rows), job("run"), config, StageInputs(0, tools, prepared))
    assert dropped.statistics == mine(table(rows), job("model"), model, StageInputs(0, tools, prepared)).statistics
    assert sum(dropped.statistics["positive"]["counts"]) == len(rows)
    with torch.no_grad():
        next(iter(encoder.parameters()))[0, 0] += 1e-3
    encoder.save(made / "model")
    assert look(config, tools)[1]["encoder_files"] != before["encoder_files"]
    assert "encoder_files" not in look(replace(config, encoder="some/name"), tools)[1]
