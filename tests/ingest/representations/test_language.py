"""Lang: languages of texts, what is unclear, and as columns of a store."""

# ruff: noqa: RUF001 (texts in many scripts)

from __future__ import annotations

import pytest

from coresetdb.ingest.representations.language import (
    LEAST_CONFIDENCE,
    MOST_CHARACTERS,
    language_of,
    representation,
    text_in,
)
from coresetdb.ingest.representations.registry import parse_specs
from coresetdb.ingest.testing import check_representation
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction

SENTENCES = {
    "en": "What is the capital of France?",
    "zh": "请用三句话解释什么是光合作用。",
    "ar": "اكتب قصيدة قصيرة عن البحر.",
    "hi": "भारत की राजधानी क्या है?",
    "sw": "Eleza jinsi ya kupika wali kwa maneno rahisi.",
    "ko": "한국의 수도는 어디입니까?",
    "de": "Schreibe eine kurze Geschichte über einen Hund.",
    "fr": "Expliquez la photosynthèse en trois phrases.",
    "es": "¿Cuál es la capital de España?",
    "pt": "Escreva um poema sobre o mar e as estrelas.",
    "it": "Scrivi una breve poesia sul mare.",
    "ru": "Напиши короткое стихотворение о море.",
    "ja": "日本の首都はどこですか。",
    "vi": "Thủ đô của Việt Nam là gì?",
    "th": "เมืองหลวงของประเทศไทยคืออะไร",
    "tr": "Türkiye'nin başkenti neresidir?",
    "pl": "Napisz krótki wiersz o morzu.",
    "nl": "Schrijf een kort gedicht over de zee.",
    "id": "Tuliskan puisi pendek tentang laut.",
    "uk": "Напиши короткий вірш про море.",
    "cs": "Napiš krátkou báseň o moři.",
    "fi": "Kirjoita lyhyt runo merestä.",
    "el": "Γράψε ένα σύντομο ποίημα για τη θάλασσα.",
    "he": "כתוב שיר קצר על הים.",
    "fa": "یک شعر کوتاه درباره دریا بنویس.",
    "bn": "সমুদ্র নিয়ে একটি ছোট কবিতা লেখো।",
    "ta": "கடலைப் பற்றி ஒரு சிறிய கவிதை எழுது.",
    "ro": "Scrie o scurtă poezie despre mare.",
    "hu": "Írj egy rövid verset a tengerről.",
    "yo": "Kọ ewì kúkúrú nípa òkun.",
    "am": "ስለ ባሕር አጭር ግጥም ጻፍ።",
    "ur": "سمندر کے بارے میں ایک مختصر نظم لکھیں۔",
    "so": "Qor gabay gaaban oo ku saabsan badda.",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_enough_for_its_language(code):
    found, confidence = language_of(SENTENCES[code])
    assert found == code and confidence >= LEAST_CONFIDENCE


@pytest.mark.parametrize("text", ["", "  \n", "2 + 2 = 4", "def f(x):\n    return x+1", "[1,2,3]"])
def test_what_is_hardly_language_is_unclear(text):
    assert language_of(text)[1] < LEAST_CONFIDENCE


def test_the_last_answer_alone_may_be_looked_at():
    row = Instruction.from_turns(
        ("user", "Translate to German: " + "x" * MOST_CHARACTERS), ("assistant", SENTENCES["de"])
    )
    assert text_in(row, "response") == SENTENCES["de"]
    assert len(text_in(row, "conversation")) <= MOST_CHARACTERS + len(row.messages)
    assert SENTENCES["de"] in text_in(row, "conversation")


def test_the_contract():
    check_representation(representation, architectures=("llama",))


def test_an_unknown_scope_is_refused():
    with pytest.raises(UsageError, match="choose from conversation, response"):
        parse_specs("lang:scope=prompt")


def test_it_is_a_column_of_old_and_new_rows(tiny_llama, tmp_path):
    import coresetdb

    def row(text: str) -> dict:
        return {"instruction": text, "output": text}

    world = coresetdb.create(tmp_path / "store", backbone=tiny_llama, features="rds")
    world.ingest([row(SENTENCES["en"]), row(SENTENCES["zh"]), row("2 + 2 = 4")], corpus="a")
    world.featurize("lang,flags")
    world.ingest([row(SENTENCES["ko"])], corpus="b")
    found = world.sql(
        "SELECT corpus, lang, lang_reason, near_empty FROM pool ORDER BY corpus, lang"
    ).to_polars()
    assert found.rows() == [
        ("a", "en", None, False),
        ("a", "zh", None, False),
        ("a", None, "no language is clear", False),
        ("b", "ko", None, False),
    ]
    chosen = world.select(method="random", budget=5, where="lang IN ('zh', 'ko')")
    assert len(chosen) == 2
