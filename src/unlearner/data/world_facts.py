"""Facts about the real world: the built-in counterpart of TOFU's World Facts, in this project's own words.

What a model knows of the world should survive unlearning. The facts were chosen to stay true and to have one answer.
"""

from importlib.resources import files

from unlearner.data.records import Record


def world_facts() -> list[Record]:
    """All facts as records with short answers; they are about nobody, so they have no subject."""
    text = files("unlearner.data").joinpath("world_facts.txt").read_text(encoding="utf-8")
    records = []
    for line in text.splitlines():
        if not line.startswith("#"):
            question, answer, *wrong, sentence = line.split(" | ")
            records.append(
                Record(question, answer, perturbed_answer=tuple(wrong), original_answer=sentence, fact=answer)
            )
    return records
