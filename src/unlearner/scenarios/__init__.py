"""The paper's scenarios as data: settings, files, tasks, published numbers (arXiv 2410.08109). One file each."""

from unlearner.scenarios import continual, fictitious, real_world
from unlearner.scenarios.base import Scenario

SCENARIOS: dict[str, Scenario] = {
    "fictitious": fictitious.SCENARIO,
    "continual": continual.SCENARIO,
    "real-world": real_world.SCENARIO,
}
