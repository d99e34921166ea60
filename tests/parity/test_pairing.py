"""The official code's pairs (shared/parity/pairing.json)."""

import json
from pathlib import Path

from unlearner.data.pairs import pair


def test_pairs_are_the_official_ones(shared: Path) -> None:
    official = json.loads((shared / "parity" / "pairing.json").read_text())
    drawn = pair(official["n_forget"], official["n_retain"], official["n_refusals"], mode="official", seed=5, epoch=3)
    assert [p["forget_index"] for p in official["pairs"]] == list(range(24))
    assert drawn.retain.tolist() == [p["retain_index"] for p in official["pairs"]]
    assert drawn.refusal.tolist() == [p["refusal_index"] for p in official["pairs"]]
