"""Tags without a model: what instructions are about, in any script, the same every time."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from clray.instructions.english import phrases_of
from clray.instructions.lexical import lexical_tags
from clray.instructions.tagger import make_tagger

MOVIES = (
    "You are given an open-domain question from an open movie database. Your task is to provide an answer to that "
    "question. Try to only include the answer. Do not put it in a sentence."
)
SENTIMENT = "In this task, you need to identify the sentiment of the given sentence as one of 'positive' or 'negative'."
TITLE = "Given an Amazon customer review, write a title for the review. The preferred titles are under fifteen words."
SPOKEN = (
    {"you", "it", "task", "given", "input", "output", "example", "following", "this task", "is", "are"}
    | {"please", "your task", "job", "instruction"}
)  # fmt: skip


def test_chunks_and_pairs_of_english_by_hand():
    assert phrases_of(SENTIMENT) == ["identify sentiment", "sentiment", "sentence"]
    assert phrases_of(TITLE) == ["amazon customer review", "write title", "title", "review", "title", "word"]
    assert phrases_of("Return the sorted lists. Translate every sentence to German.") == [
        "return list", "list", "translate sentence", "sentence",
    ]  # fmt: skip
    assert phrases_of("You have to judge the span of one nth_max/nth_min.") == ["judge span", "span"]
    assert phrases_of("This task is an example. Do it!") == []


def test_the_tags_of_real_instructions_say_what_they_are_about():
    movies, sentiment, title = lexical_tags([MOVIES, SENTIMENT, TITLE], 8, "en")
    assert {"open domain question", "open movie database", "provide answer", "answer"} <= set(movies)
    assert sentiment == ["identify sentiment", "sentiment", "sentence"]
    assert title[0] == "title" and {"write title", "amazon customer review"} <= set(title)


def test_the_weightiest_come_first_and_no_more_than_asked_for():
    assert (
        lexical_tags([MOVIES, SENTIMENT, TITLE], 2, "en")[2] == lexical_tags([MOVIES, SENTIMENT, TITLE], 8, "en")[2][:2]
    )
    assert all(len(tags) == 1 for tags in lexical_tags([MOVIES, SENTIMENT, TITLE], 1, "en"))


def test_no_text_no_tags():
    assert lexical_tags([], 8, "en") == []
    assert lexical_tags(["", " \n", "?!", "7"], 8, "en") == [[], [], [], []]
    assert lexical_tags(["", "..."], 8, "zh") == [[], []]


@pytest.mark.parametrize(
    ("language", "texts", "tags"),
    [
        ("de", ["Schreibe Überschriften für Zeitungsartikel.", "Fasse den Zeitungsartikel zusammen."],
         {"zeitungsartikel", "überschrift"}),
        ("ru", ["Определите тональность отзыва о товаре.", "Переведите отзывы."], {"отзыв", "тональность"}),
        ("hi", ["समीक्षा की भावना वर्गीकृत करें", "समीक्षा का अनुवाद करें"], {"समीक्षा", "भावना"}),
        ("xx", ["صنف مشاعر مراجعة المنتج", "ترجم مراجعة المنتج"], {"مراجعة المنتج"}),
        ("zh", ["请对这条产品评论进行情感分类。", "请总结产品评论。"], {"产品评论"}),
        ("ja", ["次の商品レビューを分類してください。", "次の商品レビューを翻訳する。"], {"レビュー"}),
        ("th", ["จำแนกความรู้สึก", "แปลความรู้สึก"], {"ามรู้สึ"}),
    ],
)  # fmt: skip
def test_every_script_has_tags(language, texts, tags):
    found = lexical_tags(texts, 8, language)
    assert tags <= set(found[0])
    assert all(found)


def test_words_of_most_of_many_texts_are_no_tags():
    texts = [
        f"Bitte übersetze {noun}." for noun in "Briefe Verträge Gedichte Romane Reden Witze Lieder Rezepte".split()
    ]
    assert all("bitten" not in tags and tags for tags in lexical_tags(texts, 8, "de"))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(max_size=60) | st.just(TITLE), max_size=5), st.integers(1, 6), st.sampled_from(["en", "de", "zh"])
)
def test_any_text_gives_distinct_clean_tags_the_same_each_time(texts, most, language):
    tags = lexical_tags(texts, most, language)
    assert tags == lexical_tags(texts, most, language)
    assert len(tags) == len(texts)
    for row in tags:
        assert len(row) <= most and len(set(row)) == len(row)
        assert all(regex.fullmatch(r"[\p{L}\p{M}\p{N}]+( [\p{L}\p{M}\p{N}]+)*", tag) for tag in row)


def test_equal_instructions_are_tagged_once_and_alike():
    tagger = make_tagger({"kind": "lexical", "language": "en", "most": 8})
    first, blank, again, other = tagger([TITLE, " ", TITLE, SENTIMENT])
    assert first == again and blank == []
    assert [first, other] == lexical_tags([TITLE, SENTIMENT], 8, "en")
    first.append("mine")
    assert "mine" not in again


def test_real_instructions_get_tags_that_tell_them_apart(data_dir):
    files = sorted(data_dir.glob("tasks/inscl16/*/train.jsonl"))
    pool = list(dict.fromkeys(json.loads(line)["instruction"] for file in files for line in file.open()))
    tags = lexical_tags(pool, 8, "en")
    by_text = dict(zip(pool, tags, strict=True))
    counts = Counter(tag for row in tags for tag in row)
    assert len(pool) > 100 and all(tags), [text for text, row in by_text.items() if not row]
    assert not SPOKEN & set(counts)
    assert counts["question"] > 10 and counts["review"] > 5
    assert len({tuple(row) for row in tags}) > 0.95 * len(pool)
    movies = next(row for text, row in by_text.items() if "open movie database" in text)
    assert {"open domain question", "open movie database"} <= set(movies)
