"""TOFU's forget requests one after another, each from the last one's model (arXiv 2410.08109, section 5).

10 tasks of 2 authors, 10 of 10, or 9 of 20. What is kept at a task is `retain90.json` (50, 10) with the tasks that are
left; model utility is measured on the same rows after every task. The built-in data have 6 tasks of one person each.
"""

from unlearner.scenarios.base import BUILTIN_LR, BUILTIN_OPTIONS, Preset, Scenario, Split, tofu


def _tasks(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(1, count + 1))


SCENARIO = Scenario(
    preset=Preset(lr={"": 1e-5}),
    splits={
        "forget01": tofu("forget01", "retain90", _tasks(10)),
        "forget05": tofu("forget05", "retain50", _tasks(10)),
        "forget10": tofu("forget10", "retain10", _tasks(9)),
    },
    builtin={
        "people6": Split(
            "forget:forget=6",
            "retain:forget=6",
            retain_eval="retain:forget=6",
            real_authors="neighbours",
            world_facts="world_facts",
            tasks=_tasks(6),
        )
    },
    options={"max_length": 500},
    builtin_options=BUILTIN_OPTIONS,
    builtin_lr=BUILTIN_LR,
    continual=True,
)
