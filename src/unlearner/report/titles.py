"""How sets are called on the page."""

SET_TITLES = {
    "forget": "Forget set", "retain": "Retain set", "real_authors": "Real authors", "world_facts": "World facts",
}  # fmt: skip


def set_title(name: str) -> str:
    """How a set is called on the page: `forget, task 2` is "Forget set, task 2"."""
    known, comma, task = name.partition(",")
    return SET_TITLES.get(known, known.replace("_", " ").capitalize()) + comma + task
