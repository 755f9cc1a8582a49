"""The tokens of a language model: the characters or the words of a text, by number."""

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

    Ids are in the order of decreasing frequency, which sampled softmax relies on, except that
    the marks for unknown tokens and for ends of lines come first.

    Attributes:
      tokens: all of them, each once; the first is `UNKNOWN`, of words the second `END_OF_LINE`.
      of_words: whether a token is a word (what white space parts) or a character.

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
        """Returns the vocabulary of all characters in a text, and one for those that are not."""
        return cls.counted(collections.Counter(text), of_words=False)

    @classmethod
    def words(cls, text: str, size: int) -> Vocabulary:
        """Returns the vocabulary of the most frequent words in a text.

        Args:
          text: lines of words between white space; every line ends with a token of its own.
          size: most tokens to have, the marks for unknown words and for ends of lines included.

        Raises:
          ValueError: if there would be no room for a word.
        """
        return cls.counted(collections.Counter(text.split()), of_words=True, size=size)

    @classmethod
    def counted(
        cls, counts: collections.Counter[str], of_words: bool, size: int | None = None
    ) -> Vocabulary:
        """Returns the vocabulary of characters or words of which each was found so often.

        Args:
          counts: how often; those found equally often come in the order of their text.
          of_words: whether they are words.
          size: most tokens to have, marks included; None for all.

        Raises:
          ValueError: if there would be no room for a word.
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
        """Returns the ids of a text's tokens, [tokens] int32."""
        parts = list(text)
        if self.of_words:
            parts = text.replace("\n", f" {END_OF_LINE} ").split()
        return np.array([self._ids.get(part, 0) for part in parts], np.int32)

    def decode(self, ids: Any) -> str:
        """Returns the text of ids ([tokens], integers); of words, with one space between them."""
        tokens = [self.tokens[index] for index in ids]
        if not self.of_words:
            return "".join(tokens)
        lines = " ".join("\n" if token == END_OF_LINE else token for token in tokens)
        return lines.replace(" \n", "\n").replace("\n ", "\n")


def characters_per_word(text: str) -> float:
    """Returns how many characters a text has for each word, the white space between included."""
    return len(text) / max(1, len(text.split()))
