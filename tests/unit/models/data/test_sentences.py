"""models/data/sentences.py, and models/data/text.py on tiny_shakespeare's format."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models.data import loading, sentences
from models.data.vocabulary import Vocabulary
from tests.extra import with_extra
from tests.unit.prepared_data import write

pytestmark = pytest.mark.slow  # Computes for seconds.

SENTENCES = [f"{'the cat' if n % 2 else 'a dog'} sat on {n} mats ." for n in range(30)]


def lm1b(directory: Path, per_file: int = 7, **arguments: Any) -> loading.Data:
    examples = [{"text": text} for text in SENTENCES]
    write(directory, "lm1b", {"train": examples, "test": examples[:9]}, per_file)
    return loading.load("lm1b", str(directory), **arguments)


def windows(dataset: tf.data.Dataset) -> list[list[int]]:
    return [window for (batch,) in dataset for window in batch.numpy().tolist()]


def joined(parts: list[list[int]]) -> list[int]:
    """Return the tokens of windows that overlap by one token."""
    for one, other in itertools.pairwise(parts):
        assert one[-1] == other[0]
    return [parts[0][0], *(token for part in parts for token in part[1:])]


@pytest.mark.parametrize("of_words", [False, True])
def test_held_out_windows_are_the_text(of_words: bool, tmp_path: Path):
    loaded = lm1b(tmp_path, of_words=of_words, steps=5)
    assert (loaded.shape, loaded.splits, loaded.is_text) == ((5,), ("test",), True)
    text = "\n".join([*SENTENCES[:9], ""])
    tokens = loaded.vocabulary.encode(text)
    found = joined(windows(loaded.held_out(4)))
    assert found == tokens[: len(found)].tolist()
    assert len(tokens) - len(found) < 5


def test_examples_are_counted_from_the_tokens(tmp_path: Path):
    loaded = lm1b(tmp_path, of_words=True, steps=4)
    assert loaded.examples == sum(len(text.split()) + 1 for text in SENTENCES) // 4
    text = "".join(f"{sentence}\n" for sentence in SENTENCES)
    assert loaded.characters_per_word == pytest.approx(len(text) / len(text.split()))
    assert loaded.vocabulary == Vocabulary.words(text, 10**6)


@pytest.mark.parametrize(
    ("shards", "per_file"), with_extra([(1, 30), (3, 30), (3, 7), (2, 20)], (1, 30), (3, 30))
)
def test_shards_have_each_sentence_once(shards: int, per_file: int, tmp_path: Path):
    loaded = lm1b(tmp_path, per_file, of_words=True, steps=1)
    seen: list[str] = []
    for index in range(shards):
        part = loaded.source.splits["train"].shard(shards, index)
        batches = loaded.batches(1, seed=3, shards=shards, index=index)
        # Tokens of the first pass: 7 of each sentence and the end of its line.
        tokens = joined(windows(batches.take(8 * len(part) - 1)))
        seen += loaded.vocabulary.decode(tokens).splitlines()
    assert sorted(seen) == sorted(SENTENCES)


def test_orders_follow_from_the_seed(tmp_path: Path):
    loaded = lm1b(tmp_path, of_words=True, steps=7)

    def order(seed: int) -> list[list[int]]:
        return windows(loaded.batches(3, seed=seed).take(25))

    found = order(1)
    assert found == order(1)
    assert found != order(2)
    assert found[:34] != found[34:68]


@pytest.mark.parametrize("of_words", [False, True])
def test_a_stream_has_the_ids_of_the_vocabulary(of_words: bool):
    known = "ein Käse \u4f60 <unk> z"
    vocabulary = Vocabulary.words(known, 7) if of_words else Vocabulary.characters(known + "\n")
    texts = ["ein Käse\u00a0\u4f60 nein", "  </s>\tx\u2003z \x1c ", "", "\U0001f600 zz"]
    tokens = sentences.encoder(vocabulary)(tf.constant(texts))
    assert tokens.dtype == tf.int32
    expected = vocabulary.encode("".join(f"{text}\n" for text in texts))
    assert tokens.numpy().tolist() == expected.tolist()


def test_vocabulary_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = lm1b(tmp_path, of_words=True, vocabulary=6)
    assert first.classes == 6
    (path,) = tmp_path.glob("lm1b/*/vocabulary-6-words-of-1000000-sentences.json")
    assert json.loads(path.read_text())["sentences"] == 30
    monkeypatch.setattr(sentences.Counts, "of_records", lambda *args: pytest.fail("counted"))
    again = loading.load("lm1b", str(tmp_path), of_words=True, vocabulary=6)
    assert again.vocabulary == first.vocabulary
    assert again.examples == first.examples


def test_where_nothing_can_be_written_it_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(sentences.os, "replace", refuse)
    first = lm1b(tmp_path, of_words=True)
    again = loading.load("lm1b", str(tmp_path), of_words=True)
    assert first.vocabulary == again.vocabulary
    assert not list(tmp_path.glob("lm1b/*/*.json.*"))


def test_only_the_first_sentences_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sentences, "COUNTED", 1)
    loaded = lm1b(tmp_path, of_words=True)
    assert set(loaded.vocabulary.tokens) == {"<unk>", "</s>", *SENTENCES[0].split()}
    assert loaded.examples == 30 * (len(SENTENCES[0].split()) + 1) // 64


# ---- tiny_shakespeare -------------------------------------------------------------------------

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 4


def shakespeare(directory: Path, **arguments: Any) -> loading.Data:
    splits = {"train": TEXT, "validation": TEXT[:70], "test": TEXT[:60]}
    write(directory, "tiny_shakespeare", {name: [{"text": text}] for name, text in splits.items()})
    return loading.load("tiny_shakespeare", str(directory), **arguments)


def test_shakespeare(tmp_path: Path):
    loaded = shakespeare(tmp_path, steps=8)
    assert loaded.splits == ("validation", "test")
    assert loaded.vocabulary == Vocabulary.characters(TEXT)
    assert loaded.examples == (len(TEXT) - 1) // 8
    for split, length in (("validation", 70), ("test", 60)):
        found = joined(windows(loaded.held_out(3, split=split)))
        assert loaded.vocabulary.decode(found) == TEXT[: (length - 1) // 8 * 8 + 1]


def test_shakespeare_of_words(tmp_path: Path):
    loaded = shakespeare(tmp_path, steps=2, of_words=True, vocabulary=5)
    assert loaded.vocabulary == Vocabulary.words(TEXT, 5)
    assert loaded.characters_per_word == pytest.approx(len(TEXT) / len(TEXT.split()))


@pytest.mark.parametrize("shards", [1, 3])
def test_in_each_pass_windows_cover_the_text_once(shards: int, tmp_path: Path):
    loaded = shakespeare(tmp_path, steps=8)
    text = np.array(loaded.source.tokens["train"])
    places = {tuple(text[start : start + 9]) for start in range(len(text) - 8)}
    first_pass = []
    for index in range(shards):
        one = loaded.source.train(seed=1, shards=shards, index=index)
        count = len(range(index, loaded.examples - 1, shards))
        first_pass += [tuple(window) for (window,) in one.take(count).as_numpy_iterator()]
    assert len(first_pass) == loaded.examples - 1
    assert set(first_pass) <= places
    # Windows of one pass begin at the same place modulo their length.
    found = [
        {start % 8 for start in range(len(text) - 8) if tuple(text[start : start + 9]) == window}
        for window in first_pass
    ]
    assert set.intersection(*found)


def test_a_damaged_text_is_named(tmp_path: Path):
    shakespeare(tmp_path, steps=8)
    (path,) = tmp_path.glob("tiny_shakespeare/*/*-train*")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot be read: truncated record at 0") as error:
        loading.load("tiny_shakespeare", str(tmp_path))
    assert str(path) in str(error.value)


def test_too_few_windows_for_the_shards_are_refused(tmp_path: Path):
    loaded = shakespeare(tmp_path, steps=50)
    with pytest.raises(ValueError, match="4 windows of 50 tokens, too few for 4 shards"):
        loaded.batches(1, seed=0, shards=4, index=0)
