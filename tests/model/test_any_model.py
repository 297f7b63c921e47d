"""Any model that sentence-transformers loads gives the same vectors here, and what would be taken for something else is
refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import BoW, Pooling, Transformer
from transformers import AutoModel

from benchmarks import zoo
from jemb.core.errors import InputError
from jemb.core.records import Tokens
from jemb.export.check import check_same_vectors
from jemb.model import Encoder, encode, encode_together, load_encoder, probe

TEXTS = ["a", "how do I open a file?", "the film was not bad at all " * 20, "Köln and 図書館"]


def edit(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **values}))


def theirs(folder: Path, texts: list[str] = TEXTS, **options: Any) -> np.ndarray:
    """What sentence-transformers gives, with length 1."""
    model = SentenceTransformer(str(folder), device="cpu")
    vectors = np.asarray(model.encode(texts, show_progress_bar=False, **options))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def agrees(folder: Path, tmp_path: Path) -> Encoder:
    """The encoder in `folder`, whose vectors are those of sentence-transformers, also once it is saved."""
    encoder = load_encoder(str(folder))
    probe(encoder, "it")
    ours = encode(encoder, TEXTS)
    np.testing.assert_allclose(ours, theirs(folder), atol=1e-5)
    encoder.save(tmp_path / "saved")
    np.testing.assert_allclose(ours, theirs(tmp_path / "saved"), atol=1e-5)
    np.testing.assert_array_equal(ours, encode(load_encoder(str(tmp_path / "saved")), TEXTS))
    return encoder


ENCODERS = [
    name for name in zoo.ARCHITECTURES if zoo.ARCHITECTURES[name][1] is not zoo.bpe and name not in ("FNet", "BigBird")
]
DECODERS = [name for name in zoo.ARCHITECTURES if zoo.ARCHITECTURES[name][1] is zoo.bpe]


@pytest.mark.parametrize("architecture", ENCODERS)
def test_plain_encoders(architecture: str, plain: Callable[[str], Path], tmp_path: Path) -> None:
    assert agrees(plain(architecture), tmp_path).pooling == "mean"


@pytest.mark.slow
@pytest.mark.parametrize("head", list(zoo.HEADS))
def test_poolings_and_heads(head: str, plain: Callable[[str], Path], tmp_path: Path) -> None:
    prompts = {"query": "search for: ", "document": "passage: "}
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), head, prompts=prompts)
    encoder = agrees(folder, tmp_path)
    for prompt in prompts.values():
        ours = encode(encoder, [prompt + text for text in TEXTS])
        np.testing.assert_allclose(ours, theirs(folder, prompt=prompt), atol=1e-5)


def test_a_prompt_of_passages_is_that_of_documents(plain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), "mean", prompts={"passage": "passage: "})
    encoder = load_encoder(str(folder))
    assert encoder.prompt("document") == "passage: "
    encoder.save(tmp_path / "saved")
    found = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode_document(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(encode(encoder, [f"passage: {text}" for text in TEXTS]), found, atol=1e-5)


def test_prompts_of_two_lengths_are_left_out_of_pooling_in_one_group(
    plain: Callable[[str], Path], tmp_path: Path
) -> None:
    prompts = {"query": "search for: ", "document": "the passage that follows: "}
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), "weighted mean, prompt left out", prompts=prompts)
    encoder = load_encoder(str(folder))
    sides = [encoder.tokenize([prompt + text for text in TEXTS]) for prompt in prompts.values()]
    assert len({int(side.prompt_lengths[0]) for side in sides if side.prompt_lengths is not None}) == 2
    found, _ = encode_together(encoder, [*sides, encoder.tokenize(TEXTS)], micro_batch_size=64)
    for vectors, prompt in zip(found, [*prompts.values(), ""], strict=True):
        np.testing.assert_allclose(vectors.detach().numpy(), theirs(folder, prompt=prompt), atol=1e-5)


def test_static_embeddings(tmp_path: Path) -> None:
    encoder = agrees(zoo.static(tmp_path / "model"), tmp_path)
    assert (encoder.static, encoder.max_length, encoder.dim) == (True, None, 32)
    assert not encode(encoder, [""]).any()
    limited = load_encoder(str(tmp_path / "model"), max_length=3)
    limited.save(tmp_path / "limited")
    np.testing.assert_allclose(encode(limited, TEXTS), theirs(tmp_path / "limited"), atol=1e-5)
    assert load_encoder(str(tmp_path / "limited")).max_length == 3


def test_static_embeddings_are_cut_on_the_side_that_their_tokenizer_cuts(tmp_path: Path) -> None:
    cut = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    edit(zoo.static(tmp_path / "model") / "tokenizer.json", truncation=cut)
    assert agrees(tmp_path / "model", tmp_path).max_length == 4


def test_the_folder_that_model2vec_writes(tmp_path: Path) -> None:
    made = zoo.static(tmp_path / "made")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((made / "tokenizer.json").read_bytes())
    weights = load_file(made / "model.safetensors")["embedding.weight"]
    save_file({"embeddings": weights}, folder / "model.safetensors")
    edit(folder / "config.json", model_type="model2vec", architectures=["StaticModel"], normalize=True)
    kinds = {".": "StaticEmbedding", "1_Normalize": "Normalize"}
    modules = [{"path": place, "type": f"sentence_transformers.models.{kind}"} for place, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps([{"idx": i, "name": str(i), **m} for i, m in enumerate(modules)]))
    agrees(folder, tmp_path)
    assert load_encoder(str(folder), dropout=0.0).static


@pytest.mark.parametrize("architecture", DECODERS)
def test_decoders_have_the_last_token(architecture: str, plain: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = load_encoder(str(plain(architecture)))
    assert encoder.pooling == "lasttoken"
    folder = zoo.with_head(tmp_path / "model", plain(architecture), "last token", prompts={"query": "Find: "})
    np.testing.assert_allclose(encode(encoder, TEXTS), theirs(folder), atol=1e-5)
    agrees(folder, tmp_path)
    with pytest.raises(InputError, match="cls pooling takes the first token"):
        load_encoder(str(plain(architecture)), pooling="cls")


@pytest.mark.parametrize("make", [zoo.bpe, lambda: zoo.bpe(end=False, pad=False, side="left")], ids=["end", "no pad"])
def test_the_end_token_is_as_the_tokenizer_does_it(make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        encoder = load_encoder(str(zoo.plain(tmp_path / "plain", "Llama", make())))
    ends = "</s>, which its tokenizer appends" if make is zoo.bpe else "appends no end token"
    assert ends in caplog.text
    probe(encoder, "it")
    assert (encoder.tokenize(["a"]).input_ids[0, -1].item() == 2) == (make is zoo.bpe)


@pytest.mark.parametrize("architecture", ["Qwen3", "Llama", "Mistral", "Gemma3"])
def test_attention_of_a_decoder_in_both_directions_is_kept(
    architecture: str, plain: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = zoo.with_head(tmp_path / "model", plain(architecture), "mean")
    causal = encode(load_encoder(str(folder)), TEXTS)
    both = load_encoder(str(folder), attention="bidirectional")
    probe(both, "it")
    assert np.abs(encode(both, TEXTS) - causal).max() > 1e-3
    both.save(tmp_path / "both")
    np.testing.assert_allclose(theirs(tmp_path / "both"), encode(both, TEXTS), atol=1e-5)
    back = load_encoder(str(tmp_path / "both"), attention="causal")
    np.testing.assert_allclose(encode(back, TEXTS), causal, atol=1e-6)


@pytest.mark.parametrize(("architecture", "attention"), [("XLNet", "causal"), ("Longformer", "causal")])
def test_attention_that_an_architecture_cannot_do_is_refused(
    architecture: str, attention: Any, plain: Callable[[str], Path]
) -> None:
    with pytest.raises(InputError, match=f"model.attention={attention}: .*cannot do that"):
        load_encoder(str(plain(architecture)), attention=attention)


@pytest.mark.parametrize(
    "architecture", ["BERT", "DistilBERT", "RoBERTa", "T5 encoder", "DeBERTa-v2", "ALBERT", "Qwen3"]
)
def test_no_vocabulary_is_made_up(architecture: str, plain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain(architecture), tmp_path / "model"))
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"cannot be loaded|the tokenizer has \d+ entries, the model \d+ embeddings"):
        load_encoder(str(folder))
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=r"cannot be loaded|the tokenizer has \d+ entries, the model \d+ embeddings"):
        load_encoder(str(folder))
    (folder / "tokenizer.json").write_text(tokenizer)
    shutil.copy(plain(architecture) / "tokenizer_config.json", folder)
    model = AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(20_000)
    model.save_pretrained(folder)
    with pytest.raises(InputError, match=r"entries, the model 20000 embeddings"):
        load_encoder(str(folder))


def test_entries_beyond_the_embeddings(plain: Callable[[str], Path], tmp_path: Path) -> None:
    for name, token in {"added": "<new>", "sentinel": "<extra_id_0>"}.items():
        tokenizer = zoo.unigram()
        vocab_size = len(tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": [token]})
        folder = zoo.plain(tmp_path / name, "T5 encoder", tokenizer, vocab_size=vocab_size)
        if name == "added":
            with pytest.raises(InputError, match=rf"the model {vocab_size} embeddings \('<new>' is {vocab_size}\)"):
                load_encoder(str(folder))
        else:
            load_encoder(str(folder))


LIMITS = ["sentence_bert_config.json", "sentence_distilbert_config.json", "sentence_xlm-roberta_config.json"]


@pytest.mark.parametrize("file", LIMITS)
def test_the_limit_is_found_in_every_file(file: str, plain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), "mean")
    (folder / "sentence_bert_config.json").unlink()
    edit(folder / file, max_seq_length=9)
    assert agrees(folder, tmp_path).max_length == 9
    for wrong in (-5, 0, "abc", True, 1.5):
        edit(folder / file, max_seq_length=wrong)
        with pytest.raises(InputError, match=rf"max_seq_length is {wrong!r}; wanted a whole number"):
            load_encoder(str(folder))


@pytest.mark.parametrize("key", ["processor_kwargs", "tokenizer_args"])
def test_the_limit_is_found_under_every_key(key: str, plain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), "mean")
    (folder / "sentence_bert_config.json").write_text(json.dumps({key: {"model_max_length": 7}}))
    assert agrees(folder, tmp_path).max_length == 7


def test_texts_are_cut_on_the_side_that_the_tokenizer_cuts(tmp_path: Path) -> None:
    folder = zoo.plain(tmp_path / "model", "BERT")
    edit(folder / "tokenizer_config.json", truncation_side="left")
    encoder = agrees(folder, tmp_path)
    assert encoder.tokenizer.decode(encoder.tokenize(["a dog " * 80 + "fox"]).input_ids[0]).endswith("fox [SEP]")


def test_a_chat_template_is_not_put_around_texts(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    folder = Path(shutil.copytree(plain("Qwen3"), tmp_path / "model"))
    expected = encode(load_encoder(str(folder)), TEXTS)
    edit(folder / "tokenizer_config.json", chat_template="{% for m in messages %}<<{{ m.content }}>>{% endfor %}")
    encoder = load_encoder(str(folder))
    probe(encoder, "it")
    np.testing.assert_array_equal(encode(encoder, TEXTS), expected)
    encoder.save(tmp_path / "saved")
    np.testing.assert_allclose(theirs(tmp_path / "saved"), expected, atol=1e-5)


def test_code_of_a_folder_does_not_run(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), "mean, 2 Dense")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    modules = (folder / "modules.json").read_text()

    def check(pattern: str) -> None:
        with pytest.raises(
            InputError, match=rf"needs code that comes with the model \({pattern}.*trust_remote_code=true"
        ):
            load_encoder(str(folder))
        assert not (tmp_path / "ran").exists()

    (folder / "modules.json").write_text(modules.replace("sentence_transformers.base.modules.transformer", "evil"))
    check(r"evil\.Transformer")
    (folder / "modules.json").write_text(modules)
    config = (folder / "config.json").read_text()
    edit(folder / "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    check("auto_map in")
    (folder / "config.json").write_text(config)
    edit(folder / "2_Dense" / "config.json", activation_function="evil.Activation")
    check(r"evil\.Activation")


@pytest.mark.slow
def test_files_of_another_shape_are_said(tmp_path: Path, plain: Callable[[str], Path]) -> None:
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), "mean")

    def check(file: str, text: str, pattern: str) -> None:
        before = (folder / file).read_text()
        (folder / file).write_text(text)
        with pytest.raises(InputError, match=pattern):
            load_encoder(str(folder))
        (folder / file).write_text(before)

    check("modules.json", '{"a": 1}', "modules.json: .*wanted a list")
    check("modules.json", "[]", "cannot be loaded")
    check("modules.json", "[3]", r"modules.json: \[0\] is 3; wanted")
    outside = '[{"idx": 0, "name": "0", "path": "../../etc", "type": "sentence_transformers.models.Pooling"}]'
    check("modules.json", outside, "stays in its folder")
    check("modules.json", "[" * 100_000, r"modules.json: not valid JSON|modules.json: .*nested")
    check("config.json", "[" * 100_000, r"config.json: .*(JSON|nested)")
    check("config.json", "[]", "config.json: .*wanted")
    config = json.loads((folder / "config.json").read_text())
    check("config.json", json.dumps({**config, "num_attention_heads": 0}), "cannot be loaded")
    check(
        "config.json",
        json.dumps({**config, "num_hidden_layers": 10**7}),
        "describes a model of more than",
    )
    huge = {**config, "num_hidden_layers": 2, "vocab_size": 10**9, "hidden_size": 4096}
    check("config.json", json.dumps(huge), "describes a model of more than")
    check("config_sentence_transformers.json", '{"model_type": "SparseEncoder"}', "wanted a SentenceTransformer")


def test_parameters_without_gradient_are_frozen(plain: Callable[[str], Path]) -> None:
    encoder = load_encoder(str(plain("Longformer"))).train()
    frozen = [name for name, p in encoder.named_parameters() if not p.requires_grad]
    assert len(frozen) == 14
    assert all("global" in name or "pooler" in name for name in frozen)
    encoder(encoder.tokenize(TEXTS)).sum().backward()
    assert all((p.grad is None) == (not p.requires_grad) for p in encoder.parameters())


def test_no_limit_where_the_configuration_says_less_than_one(plain: Callable[[str], Path], tmp_path: Path) -> None:
    tokenizer = zoo.wordpiece()
    tokenizer.model_max_length = int(1e30)
    encoder = load_encoder(str(zoo.plain(tmp_path, "XLNet", tokenizer)))
    assert encoder.max_length == 512
    assert load_encoder(str(tmp_path), max_length=600).max_length == 600


def test_a_model_that_lets_padding_in_is_refused(plain: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"FNet: beside longer texts the vector of .* apart\)"):
        probe(load_encoder(str(plain("FNet"))), "FNet")


def test_a_model_that_changes_with_the_texts_is_refused(plain: Callable[[str], Path], tmp_path: Path) -> None:
    """BigBird gives up its sparse attention for good at the first short text."""
    with pytest.raises(InputError, match="changes with the lengths of the texts"):
        load_encoder(str(plain("BigBird")))
    agrees(zoo.plain(tmp_path / "full", "BigBird", attention_type="original_full"), tmp_path)


def test_a_router_is_refused(plain: Callable[[str], Path], tmp_path: Path) -> None:
    query, document = (SentenceTransformer(str(plain(name)), device="cpu") for name in ("BERT", "DistilBERT"))
    router = Router.for_query_document(list(query), list(document))
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path), create_model_card=False)
    with pytest.raises(InputError, match="the model is made of Router; wanted one that begins with a Transformer"):
        load_encoder(str(tmp_path))


def test_another_width_than_the_pooling_says_is_refused(plain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), "mean")
    edit(folder / "1_Pooling" / "config.json", embedding_dimension=48)
    with pytest.raises(InputError, match="says that its vectors have 48 numbers; they have 32"):
        load_encoder(str(folder))


def test_a_pooling_too_narrow_for_the_head_is_refused(plain: Callable[[str], Path], tmp_path: Path) -> None:
    modules = [Transformer(str(plain("BERT"))), Pooling(32, ("cls", "mean")), zoo.dense(64, 8, torch.nn.Tanh())]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"), create_model_card=False)
    with pytest.raises(InputError, match=r"cannot be loaded .*mat1 and mat2 shapes"):
        load_encoder(str(tmp_path / "model"), pooling="mean")


def test_a_bag_of_words_is_refused(tmp_path: Path) -> None:
    modules = [BoW(["film", "bad"]), zoo.dense(2, 4, torch.nn.Identity())]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path), create_model_card=False)
    with pytest.raises(
        InputError, match=r"the model is made of BoW \+ Dense; wanted one that begins with a Transformer"
    ):
        load_encoder(str(tmp_path))


def test_weights_that_are_not_used_are_said(
    plain: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shutil.copytree(plain("BERT"), tmp_path / "model")
    edit(tmp_path / "model" / "config.json", num_hidden_layers=1)
    load_encoder(str(tmp_path / "model"))
    assert "16 of its weights are not used (encoder.layer.1." in caplog.text


def test_a_refusal_names_the_folder(tmp_path: Path) -> None:
    folder = zoo.plain(tmp_path / "model", "Llama", zoo.bpe(pad=False))
    edit(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(InputError, match=f"^{folder}: the tokenizer .* has no padding token"):
        load_encoder(str(folder))


@pytest.mark.parametrize("setting", [{"query_length": 9}, {"document_length": 9}])
def test_lengths_of_one_role_are_refused(setting: dict[str, int], plain: Callable[[str], Path], tmp_path: Path) -> None:
    model = SentenceTransformer(str(plain("BERT")), device="cpu")
    for name, value in setting.items():
        setattr(model[0], name, value)
    model.save(str(tmp_path), create_model_card=False)
    with pytest.raises(InputError, match=r"the tokens of .* are not the one that sentence-transformers gives"):
        probe(load_encoder(str(tmp_path)), "BERT")


def test_messages_of_a_saved_model_are_refused(plain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain("Qwen3"), tmp_path / "model"))
    edit(folder / "tokenizer_config.json", chat_template="{% for m in messages %}<<{{ m.content }}>>{% endfor %}")
    SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "saved"), create_model_card=False)
    with pytest.raises(InputError, match="the tokens of"):
        probe(load_encoder(str(tmp_path / "saved")), "Qwen3")


CODE = """
from transformers import BertModel

class Halved(BertModel):
    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.last_hidden_state = found.last_hidden_state * (self.config.hidden_size > 1 and 0.5) - 0.1
        return found
"""


def test_code_that_is_trusted_runs_is_saved_and_exported(
    plain: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(plain("BERT"), tmp_path / "model"))
    (folder / "halved.py").write_text(CODE)
    edit(folder / "config.json", auto_map={"AutoModel": "halved.Halved"})
    encoder = load_encoder(str(folder), trust_remote_code=True)
    assert "runs code that comes with the model (auto_map in" in caplog.text
    assert np.abs(encode(encoder, TEXTS) - encode(load_encoder(str(plain("BERT"))), TEXTS)).max() > 1e-3
    encoder.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "halved.py").is_file()
    found = check_same_vectors(encoder, tmp_path / "saved", trust_remote_code=True)
    assert set(found) == {"sentence-transformers"}
    with pytest.raises(InputError, match="needs code that comes with the model"):
        load_encoder(str(tmp_path / "saved"))


def test_a_prompt_that_leaves_no_room_is_refused(plain: Callable[[str], Path]) -> None:
    encoder = load_encoder(str(plain("BERT")), max_length=10)
    encoder.prompts = {"query": "how do I open a file in Python and read it: "}
    with pytest.raises(InputError, match="alone fills the 10 tokens"):
        probe(encoder, "BERT")


def test_another_similarity_is_said(
    plain: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = zoo.with_head(tmp_path / "model", plain("BERT"), "mean, not normalised", similarity_fn_name="dot")
    load_encoder(str(folder)).save(tmp_path / "saved")
    assert "its similarity_fn_name is dot; here vectors are trained and compared by their cosines" in caplog.text
    assert SentenceTransformer(str(tmp_path / "saved"), device="cpu").similarity_fn_name == "cosine"


def test_gradients_reach_heads_in_groups_as_in_one(plain: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = load_encoder(
        str(zoo.with_head(tmp_path / "model", plain("BERT"), "cls, Dense (tanh)")), dropout=0
    ).train()
    tokens = encoder.tokenize(TEXTS * 2)
    found: list[list[torch.Tensor]] = []
    for size in (None, 2):
        encoder.zero_grad()
        (vectors,), _ = encode_together(encoder, [Tokens(tokens.input_ids, tokens.lengths)], micro_batch_size=size)
        (vectors @ torch.linspace(-1, 1, encoder.dim)).sum().backward()
        found.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(found[0]) == sum(p.requires_grad for p in encoder.parameters())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
