"""Twenty people whom the model knows by heart (arXiv 2410.08109, section 5); its model: Llama-3-8B-Instruct."""

from unlearner.scenarios.preset import Preset

# The paper's baselines were tried at 1e-5, 5e-6 and 2e-6; the first of these is the default.
PRESET = Preset(lr={"ME+GD": 5e-6, "": 1e-5}, forget_coeff={"ME": 0.5})
