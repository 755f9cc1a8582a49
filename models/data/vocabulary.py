"""Vocabulary of a language model: the characters or words of a text, and their ids."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import numpy as np

UNKNOWN = "<unk>"
END_OF_LINE = "</s>"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tokens and their ids: token i is `tokens[i]`.

    Unlike Keras' TextVectorization, it has no lookup table, which could not be sent to another
    process with a data set.

    Ids are in order of decreasing frequency, which sampled softmax relies on, except that the
    special tokens for unknown tokens and ends of lines come first.

    Attributes:
      tokens: all tokens, each once. The first is `UNKNOWN`; of words, the second is `END_OF_LINE`.
      of_words: whether tokens are words, separated by white space; otherwise characters.

    Example:
      >>> words = Vocabulary.words("to be or not to be", size=4)
      >>> words.tokens
      ('<unk>', '</s>', 'to', 'be')
      >>> words.decode(words.encode("to do"))
      'to <unk>'
    """

    tokens: tuple[str, ...]
    of_words: bool

    @classmethod
    def characters(cls, text: str) -> Vocabulary:
        """Return the vocabulary of all characters in a text, with a token for unknown ones."""
        return cls.counted(collections.Counter(text), of_words=False)

    @classmethod
    def words(cls, text: str, size: int) -> Vocabulary:
        """Return the vocabulary of the most frequent words in a text.

        Args:
          text: lines of words separated by white space. The end of a line is a token, too.
          size: maximum number of tokens, including those for unknown words and ends of lines.

        Raises:
          ValueError: if `size` leaves no room for a word.
        """
        return cls.counted(collections.Counter(text.split()), of_words=True, size=size)

    @classmethod
    def counted(
        cls, counts: collections.Counter[str], of_words: bool, size: int | None = None
    ) -> Vocabulary:
        """Return the vocabulary of characters or words with the given counts.

        Args:
          counts: counts of characters or words; equal counts are sorted alphabetically.
          of_words: whether they are words; otherwise characters.
          size: maximum number of tokens, including special ones; None for all.

        Raises:
          ValueError: if `size` leaves no room for a word.
        """
        marks = (UNKNOWN, END_OF_LINE) if of_words else (UNKNOWN,)
        if size is not None and size <= len(marks):
            raise ValueError(
                f"size is {size}, but two tokens are {UNKNOWN} and {END_OF_LINE}: "
                "there would be no words. Let it be 3 or more."
            )
        found = sorted(counts, key=lambda part: (-counts[part], part))
        tokens = (*marks, *(part for part in found if part not in marks))
        return cls(tokens[:size], of_words)

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    def encode(self, text: str) -> np.ndarray[Any, Any]:
        """Return the ids of a text's tokens, [tokens] int32."""
        parts = list(text)
        if self.of_words:
            parts = text.replace("\n", f" {END_OF_LINE} ").split()
        return np.array([self._ids.get(part, 0) for part in parts], np.int32)

    def decode(self, ids: Any) -> str:
        """Return the text of ids, [tokens] integers, with single spaces between words."""
        tokens = [self.tokens[index] for index in ids]
        if not self.of_words:
            return "".join(tokens)
        lines = " ".join("\n" if token == END_OF_LINE else token for token in tokens)
        return lines.replace(" \n", "\n").replace("\n ", "\n")


def characters_per_word(text: str) -> float:
    """Return the average number of characters per word in a text, including white space."""
    return len(text) / max(1, len(text.split()))
