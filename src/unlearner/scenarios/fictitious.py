"""TOFU (Maini et al. 2024, arXiv 2401.06121): forget 2, 10 or 20 of 200 invented authors, 20 questions each."""

from unlearner.scenarios.preset import Preset

PRESET = Preset(lr={"": 1e-5}, forget_coeff={"ME": 0.1})
