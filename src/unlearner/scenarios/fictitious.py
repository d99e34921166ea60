"""TOFU (Maini et al. 2024, arXiv 2401.06121): forget 2, 10 or 20 of 200 invented authors, 20 questions each.

The forget set is the first task of `forget01.json` (05, 10), so the retain set is `retain90.json` (50, 10) with the
tasks that are left: all authors but the forgotten ones (arXiv 2410.08109, section 5). Splits of the built-in data
forget 1, 2 or 4 of 24 invented people.
"""

from unlearner.scenarios.base import BUILTIN_LR, BUILTIN_OPTIONS, Preset, Published, Scenario, Split, tofu


def _builtin(people: int) -> Split:
    return Split(
        f"forget:forget={people}", f"retain:forget={people}", real_authors="neighbours", world_facts="world_facts"
    )


SCENARIO = Scenario(
    preset=Preset(lr={"": 1e-5}, forget_coeff={"ME": 0.1}),
    splits={
        "forget01": tofu("forget01", "retain90", ("1",)),
        "forget05": tofu("forget05", "retain50", ("1",)),
        "forget10": tofu("forget10", "retain10", ("1",)),
    },
    builtin={"person1": _builtin(1), "people2": _builtin(2), "people4": _builtin(4)},
    options={"max_length": 500},
    builtin_options=BUILTIN_OPTIONS,
    builtin_lr=BUILTIN_LR,
    published=Published(
        source="arXiv 2504.15827, Table 4",
        model="Llama-2-7B",
        figures={
            "GA+GD": {"forget01": (0.6696, 0.5908), "forget05": (0.0, 0.8772), "forget10": (0.5592, 0.9346)},
            "NPO+GD": {"forget01": (0.6414, 0.6109), "forget05": (0.5465, 0.6921), "forget10": (0.5648, 0.7668)},
            "ME+GD": {"forget01": (0.7271, 0.9204), "forget05": (0.7472, 0.9313), "forget10": (0.7357, 0.9489)},
            "DPO+GD": {"forget01": (0.7564, 0.5335), "forget05": (0.0, 0.8243), "forget10": (0.0, 0.8041)},
            "IDK+AP": {"forget01": (0.7580, 0.7625), "forget05": (0.7529, 0.7479), "forget10": (0.7471, 0.7433)},
        },
    ),
)
