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
        return cls((UNKNOWN, *_by_frequency(text)), of_words=False)

    @classmethod
    def words(cls, text: str, size: int) -> Vocabulary:
        """Returns the vocabulary of the most frequent words in a text.

        Args:
          text: lines of words between white space; every line ends with a token of its own.
          size: most tokens to have, the marks for unknown words and for ends of lines included.

        Raises:
          ValueError: if there would be no room for a word.
        """
        if size < 3:
            raise ValueError(
                f"size is {size}, but two tokens are {UNKNOWN} and {END_OF_LINE}: "
                "there would be no words. Let it be 3 or more."
            )
        marks = (UNKNOWN, END_OF_LINE)
        known = [word for word in _by_frequency(text.split()) if word not in marks]
        return cls((*marks, *known[: size - len(marks)]), of_words=True)

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


def _by_frequency(parts: Any) -> list[str]:
    """Returns the different parts, the most frequent first; equals by their text."""
    counts = collections.Counter(parts)
    return sorted(counts, key=lambda part: (-counts[part], part))
