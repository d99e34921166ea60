"""Keep the states of a layer near the reference's on the retain set (Li et al. 2024, arXiv 2403.03218)."""

from dataclasses import dataclass

from torch import Tensor

from unlearner.methods.base import Loss, Needs, Views
from unlearner.methods.rmu import check_layer


@dataclass(frozen=True)
class REP(Loss):
    """L = mean over tokens of ‖h_θ(retain)_t − h_ref(retain)_t‖²/H, h the states behind decoder block `layer`.

    RMU's retain loss; goes with any forget loss. OpenUnlearning calls it EMBED_DIFF. Averages as in RMU, in official
    mode over labelled tokens. A mean of squares over H numbers is small: its published weights are 1 (OpenUnlearning),
    100 (RMU's code, with its steering of 20) and 1200 (RMU's for zephyr-7b, and ARMU's).
    """

    name = "REP"
    role = "retain"
    formula = "mean_t ‖h_θ(retain) − h_ref(retain)‖²/H at one layer"
    source = "Li et al. 2024, arXiv 2403.03218"
    defaults_from = "RMU's layer in the paper's code"
    grid = {"retain_coeff": (1.0, 100.0, 1200.0)}

    layer: int = 7

    def __post_init__(self) -> None:
        check_layer(self.name, self.layer)

    @property
    def needs(self) -> Needs:
        return {"retain": [self.layer]}

    @property
    def reference(self) -> Needs:
        return {"retain": [self.layer]}

    def __call__(self, views: Views) -> Tensor:
        retain = views["retain"]
        assert retain.reference is not None
        apart = retain.averaged_states(self.layer) - retain.reference.averaged_states(self.layer)
        return retain.state_mean(apart.square().mean(-1))
