"""How far a run has been logged, kept beside it: a run that goes on repeats nothing, and its charts begin where it began."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from esper.nissa.sinks.wandb_rounds import Point

FILE = "logged.jsonl"


class Progress:
    """What all lives of a run have logged so far, one line of a file for each round.

    Args:
        folder: Where the file lies.
        charted: Keys whose values are kept.
    """

    def __init__(self, folder: Path, charted: Collection[str]) -> None:
        self._path = folder / FILE
        self._charted = frozenset(charted)
        self.last_round = -1
        """Number of the last round that was logged; −1 before the first."""
        self.env_steps = 0
        """Taken up to there."""
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        """Charted key → (env steps, value), oldest first."""
        if self._path.exists():
            self._read()

    def note(self, number: int, env_steps: int, points: Iterable[Point]) -> None:
        """Remember that a round was logged.

        Args:
            number: Of the round; −1 for what belongs to none.
            env_steps: Taken in the run so far.
            points: What was logged.

        Raises:
            OSError: If it cannot be written.
        """
        kept = [(step, {key: value for key, value in values.items() if key in self._charted}) for step, values in points]
        kept = [(step, values) for step, values in kept if values]
        line = json.dumps({"round": number, "env_steps": env_steps, "charted": kept})
        with self._path.open("a") as file:
            file.write(line + "\n")
        self._take(number, env_steps, kept)

    def _read(self) -> None:
        whole, _, torn = self._path.read_text().rpartition("\n")
        if torn:  # its writer was killed; what it was about will be logged again
            self._path.write_text(whole + "\n" if whole else "")
        for line in whole.splitlines():
            noted = json.loads(line)
            self._take(noted["round"], noted["env_steps"], noted["charted"])

    def _take(self, number: int, env_steps: int, charted: Iterable[Point]) -> None:
        self.last_round = max(self.last_round, number)
        self.env_steps = max(self.env_steps, env_steps)
        for step, values in charted:
            for key, value in values.items():
                self.history[key].append((step, value))
