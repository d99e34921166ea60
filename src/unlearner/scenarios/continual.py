"""TOFU's forget requests one after another, each from the last one's model (arXiv 2410.08109, section 5)."""

from unlearner.scenarios.preset import Preset

PRESET = Preset(lr={"": 1e-5})
