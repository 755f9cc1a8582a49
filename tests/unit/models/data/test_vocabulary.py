from __future__ import annotations

import pytest

from models.data.vocabulary import END_OF_LINE, UNKNOWN, Vocabulary, characters_per_word

TEXT = "b a b\nc b a\n"


def test_words_come_by_frequency():
    words = Vocabulary.words(TEXT, size=10)
    assert words.tokens == (UNKNOWN, END_OF_LINE, "b", "a", "c")
    assert len(words) == 5


def test_rare_words_are_unknown():
    words = Vocabulary.words(TEXT, size=4)
    assert words.tokens == (UNKNOWN, END_OF_LINE, "b", "a")
    assert words.encode("a c b\n").tolist() == [3, 0, 2, 1]


def test_words_that_look_like_marks_are_no_new_tokens():
    assert Vocabulary.words("<unk> </s> a", size=9).tokens == (UNKNOWN, END_OF_LINE, "a")


def test_lines_of_words_come_back():
    words = Vocabulary.words(TEXT, size=10)
    assert words.decode(words.encode(TEXT)) == TEXT


def test_characters_come_back():
    characters = Vocabulary.characters(TEXT)
    assert characters.tokens[0] == UNKNOWN
    assert characters.decode(characters.encode(TEXT)) == TEXT
    assert characters.encode("z").tolist() == [0]
    assert characters.encode(TEXT).dtype == "int32"


def test_no_room_for_words_is_refused():
    with pytest.raises(ValueError, match="size is 2, but two tokens are"):
        Vocabulary.words(TEXT, size=2)


def test_characters_per_word():
    assert characters_per_word("ab cd\nefg ") == pytest.approx(10 / 3)
