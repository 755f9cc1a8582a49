"""Claims of the paper, and what our results say about them."""

from __future__ import annotations

import dataclasses

FOUND = "found in the paper's text"
V1 = "found in arXiv 1604.00981v1"
TF_TEXT = "found in summaries of the TensorFlow paper"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
      what: the claim.
      paper: the paper's number.
      certainty: where the number is from.
      ours: our number, with its spread over seeds.
      rule: when they agree, stated before the run.
      agrees: whether they do; None where the number was fitted, so that it tests nothing.
      why: what differs, and what may explain a difference.
    """

    what: str
    paper: str
    certainty: str
    ours: str
    rule: str
    agrees: bool | None
    why: str

    @property
    def verdict(self) -> str:
        """The verdict in a word."""
        return "fitted" if self.agrees is None else "yes" if self.agrees else "no"
