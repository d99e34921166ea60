"""Steps and learning rate where the forget set or the model is smaller than the paper's.

The paper forgets 40 to 400 rows, by models of seven and eight billion parameters, at 1e-5 in five epochs of 32 rows a
step. Fewer rows make so few steps, and smaller models move so little at that rate, that nothing is forgotten
(docs/lab/defaults.md has the measurements). So, only where neither preset nor learning rate nor epochs are given:

- The rate grows with the root of how much smaller the model is than seven billion parameters, up to 1e-3.
- A step takes fewer micro-batches, and where one is still too many there are more epochs, until there are 20 steps.

From 40 rows and seven billion parameters on, all is the paper's.
"""

import math
from dataclasses import dataclass

ROWS = 40
"""The paper's smallest forget set: forget01 of TOFU."""
PARAMETERS = 6.7e9
"""The paper's smaller model, Llama-2-7B."""
EPOCHS, ACCUMULATION = 5.0, 8
"""The paper's. Micro-batches of 4 rows: 32 rows a step."""
LEAST_STEPS = 20
HIGHEST_RATE = 1e-3


@dataclass(frozen=True)
class Size:
    """What is forgotten, and by what."""

    rows: int
    parameters: int | None
    """None where it is not known."""

    @property
    def is_papers(self) -> bool:
        """Whether it is as large as in the paper."""
        return self.rows >= ROWS and (self.parameters is None or self.parameters >= PARAMETERS)

    def rate(self, papers: float) -> float:
        """The learning rate, to two digits, where the paper's is `papers`."""
        smaller = PARAMETERS / min(self.parameters or PARAMETERS, PARAMETERS)
        return max(papers, float(f"{min(papers * math.sqrt(smaller), HIGHEST_RATE):.1e}"))

    def steps(self, batch_size: int, accumulation: int | None) -> tuple[float, int]:
        """Epochs and micro-batches a step; these stay as they are where they are given."""
        if self.is_papers:
            return EPOCHS, accumulation or ACCUMULATION
        micro_batches = self.rows * EPOCHS / batch_size
        step = accumulation or min(ACCUMULATION, max(1, int(micro_batches / LEAST_STEPS)))
        return max(EPOCHS, float(math.ceil(LEAST_STEPS * step * batch_size / self.rows))), step
