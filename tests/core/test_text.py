"""What a word is, with sentences of many scripts counted by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jemb.core.text import count_words, words
from jemb.prepare.near.index import Index
from jemb.prepare.stages.decontaminate import choose_texts


@pytest.mark.parametrize(
    ("text", "found", "count"),
    [
        ("It's a state-of-the-art test.", ["It", "s", "a", "state", "of", "the", "art", "test"], 4),
        ("Größe für Zoë", ["Größe", "für", "Zoë"], 3),
        ("Gro\u0308ße", ["Gro\u0308ße"], 1),  # the accent as a letter of its own
        ("Кто написал «Войну и мир»?", ["Кто", "написал", "Войну", "и", "мир"], 5),
        ("지금 몇 시예요?", ["지금", "몇", "시예요"], 3),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"], 2),  # its vowel signs are marks
        ("كَتَبَ الوَلَدُ", ["كَتَبَ", "الوَلَدُ"], 2),
        ("中国的首都是哪里？", list("中国的首都是哪里"), 8),
        ("2024年的GDP，增长", ["2024", "年", "的", "GDP", "增", "长"], 6),
        ("これはペンです。", list("これはペンです"), 7),
        ("เมืองหลวงของไทย", ["เ", "มื", "อ", "ง", "ห", "ล", "ว", "ง", "ข", "อ", "ง", "ไ", "ท", "ย"], 14),
        ("ភាសាខ្មែរ", ["ភា", "សា", "ខ្", "មែ", "រ"], 5),
        ("မြန်မာ", ["မြ", "န်", "မာ"], 3),
        ("𠮷野家", ["𠮷", "野", "家"], 3),
        ("a - b", ["a", "b"], 3),
        ("… 。", [], 2),
        ("", [], 0),
    ],
)
def test_words_of_many_scripts(text: str, found: list[str], count: int) -> None:
    assert words(text) == found
    assert count_words(text) == count
    assert "".join(words(text, apart=False)) == "".join(found)


@given(st.text(st.characters(max_codepoint=0x2FF) | st.sampled_from("αβгд ñ_1²½"), max_size=60))
def test_latin_text_has_the_words_it_always_had(text: str) -> None:
    assert words(text) == words(text, apart=False) == re.findall(r"\w+", text)
    assert count_words(text) == len(text.split())


@pytest.mark.parametrize(
    ("evaluation", "training"),
    [
        ("中国的首都是哪里？", "中国的首都是哪里 ?"),
        ("日本の首都はどこですか", "「日本の首都はどこですか」"),
        ("เมืองหลวงของประเทศไทยคืออะไร", "เมืองหลวงของประเทศไทยคืออะไร!"),
        ("រាជធានីនៃប្រទេសកម្ពុជា", "រាជធានីនៃប្រទេសកម្ពុជា។"),
        ("대한민국의 수도는 어디입니까", "대한민국의 수도는 어디입니까?"),
        ("भारत की राजधानी क्या है", "भारत की राजधानी क्या है?"),
    ],
)
@pytest.mark.parametrize("shingle", ["char", "word"])
def test_evaluation_texts_of_any_script_are_looked_for(evaluation: str, training: str, shingle) -> None:
    chosen = choose_texts([evaluation, "是", "ใช่"[:1], "yes", "Paris"], min_words=3)
    assert chosen == [evaluation]
    index = Index(chosen, shingle=shingle, ngram=5, threshold=0.8, seed=0)
    assert index.match([training, "something else entirely is here", "完全不同的一句话在这里"]).tolist() == [0, -1, -1]


def test_word_shingles_find_a_near_copy_without_spaces() -> None:
    """By white space this was one long word, and a letter changed in it made another text."""
    text = "机器学习是人工智能的一个分支它使用统计方法让计算机从数据中学习而不需要明确编程"
    index = Index([text], shingle="word", ngram=3, threshold=0.8, seed=0)
    assert index.match([text[:-1] + "写", text[::-1]]).tolist() == [0, -1]


def test_vowel_signs_tell_words_apart() -> None:
    """Without its marks कील (nail) was compared as कल (tomorrow), and so on."""
    index = Index(["कल काल कील कोल केला"], shingle="char", ngram=2, threshold=0.9, seed=0)
    assert np.array_equal(index.match(["कल कल कल कल कल", "कल काल कील कोल केला"]), [-1, 0])
