"""The leak filter: what shares a long run of words with a held-out question or answer is not learnt from.

The length of the run follows GPT-3's check of its test sets (arXiv 2005.14165, appendix C): 13 words, or the whole
text where it is shorter, but never fewer than 8, since shorter runs are said by chance. So a question of 8 to 12 words
leaks where it stands whole. A question is also looked for with its answer behind it. An answer by itself counts
from 13 words on: "the cell membrane" alone is what the knowledge is there to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clray.lineage.key import digest
from clray.mining.words import runs, words

LONGEST, SHORTEST = 13, 8
LABELS = ("", "A", "Answer")
"""What may stand between a question and its answer."""


@dataclass(frozen=True)
class Leak:
    """The run of words that a text shares with the held-out question of that name."""

    question: str
    run: str


class HeldOut:
    """The runs of words of held-out questions and answers that no text to learn from may hold."""

    def __init__(self, questions: Iterable[tuple[str, str, Sequence[str]]]) -> None:
        """`questions` are triples of name, question and the texts of its answers (options and references)."""
        self._runs: dict[str, str] = {}
        self._sizes: set[int] = set()
        for name, question, answers in questions:
            self._add(name, words(question), SHORTEST)
            for answer in answers:
                self._add(name, words(answer), LONGEST)
                for label in LABELS:
                    self._add(name, words(f"{question} {label} {answer}"), SHORTEST)

    def _add(self, name: str, text: list[str], least: int) -> None:
        """Holds out the runs of the text, each under the first name it comes with."""
        size = min(len(text), LONGEST)
        if size >= least:
            self._sizes.add(size)
            for run in runs(text, size):
                self._runs.setdefault(run, name)

    @property
    def digest(self) -> str:
        """Address of what is held out, whatever the order and names of the questions."""
        return digest([LONGEST, SHORTEST, sorted(self._runs)])

    def leak(self, text: str) -> Leak | None:
        """The shortest run (of equals the first) of the text that is held out, or None."""
        found = words(text)
        for size in sorted(self._sizes):
            for run in runs(found, size):
                if run in self._runs:
                    return Leak(self._runs[run], run)
        return None

    def leaks(self, texts: Iterable[str]) -> dict[int, Leak]:
        """Number of each text that is to be left out -> what it leaks."""
        found = ((number, self.leak(text)) for number, text in enumerate(texts))
        return {number: leak for number, leak in found if leak}
