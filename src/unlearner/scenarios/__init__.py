"""The paper's scenarios as data: settings, files, tasks (PAPER sections 4 and 6). One file each."""

from unlearner.scenarios import continual, fictitious, real_world
from unlearner.scenarios.preset import Preset

PRESETS: dict[str, Preset] = {
    "fictitious": fictitious.PRESET,
    "continual": continual.PRESET,
    "real-world": real_world.PRESET,
}
