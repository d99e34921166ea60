"""What the modules of this folder agree on."""

IGNORE = -100
"""Label of a position that no loss and no score counts, as in transformers."""
EPSILON = 1e-12
"""Added to a probability inside the mean log-probability, as the official ME loss does (PAPER section 3)."""
COMPARED = ("kl", "js", "distilled")
"""The scores that compare with another model's distribution, the teacher's."""
KINDS = ("logp", "mean_logp", "entropy", "unlikelihood", "spread", *COMPARED)
"""The scores with a gradient that `token_scores` knows."""
STATISTICS = ("is_argmax", "rank", "expected_logp", "variance_logp", "others_ce")
"""What `token_scores` tells besides, without a gradient."""
