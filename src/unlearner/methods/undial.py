"""Self-distillation with the label's logit lowered (Dong et al. 2024, arXiv 2402.10052)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from unlearner.methods.base import Loss, Views, check_positive
from unlearner.scoring.constants import IGNORE


@dataclass(frozen=True)
class UNDIAL(Loss):
    """L = mean over labelled tokens of CE(q′, p), q′ = softmax(z_ref − β e_y), z_ref the logits under ref, y the label.

    OpenUnlearning takes the mean over every position of the padded batch, prompt and padding included; where there is
    no label it lowers token V − 100, its −100 taken as an index from the end. Official mode does so, too.
    """

    name = "UNDIAL"
    formula = "mean_t CE(softmax(z_ref − β e_y), p_t) on forget"
    source = "Dong et al. 2024, arXiv 2402.10052"
    needs = {"forget": ["distilled"]}
    official_everywhere = True
    defaults_from = "OpenUnlearning; the paper's code takes 3 to 10"
    presets = {
        "paper": {"retain_coeff": 0.0, "beta": 5.0},
        "openunlearning": {
            "learning_rate": 1e-4,
            "forget_coeff": 1.0,
            "retain_coeff": 0.0,
            "beta": 10.0,
            "epochs": 10.0,
        },
    }
    grid = {"learning_rate": (1.0, 10.0, 30.0), "beta": (3.0, 10.0, 30.0)}

    beta: float = 10.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    @property
    def demote(self) -> float:
        return self.beta

    def official_view(self, view: Mapping[str, Tensor], vocabulary: int) -> Mapping[str, Tensor]:
        labels = view["labels"]
        return {**view, "labels": labels.masked_fill(labels == IGNORE, vocabulary + IGNORE)}

    def __call__(self, views: Views) -> Tensor:
        forget = views["forget"]
        return forget.token_mean(forget.distilled)
