"""How metrics and sets are called on the page."""

METRIC_TITLES = {
    "rouge": "ROUGE", "probability": "Probability", "truth_ratio": "Truth ratio", "token_entropy": "Token entropy",
    "cosine_similarity": "Cosine similarity", "entailment": "Entailment",
}  # fmt: skip
SHORT_TITLES = {
    "rouge": "ROUGE", "probability": "Prob.", "truth_ratio": "Truth", "token_entropy": "Entropy",
    "cosine_similarity": "Cosine", "entailment": "Entailed",
}  # fmt: skip
"""The metrics' names over narrow columns."""
SET_TITLES = {
    "forget": "Forget set", "retain": "Retain set", "real_authors": "Real authors", "world_facts": "World facts",
}  # fmt: skip


def set_title(name: str) -> str:
    """How a set is called on the page: `forget, task 2` is "Forget set, task 2"."""
    known, comma, task = name.partition(",")
    return SET_TITLES.get(known, known.replace("_", " ").capitalize()) + comma + task
