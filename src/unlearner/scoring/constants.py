"""What the modules of this folder agree on."""

IGNORE = -100
"""Label of a position that no loss and no score counts, as in transformers."""
EPSILON = 1e-12
"""Added to a probability inside the mean log-probability, as the official ME loss does (PAPER section 3)."""
KINDS = ("logp", "mean_logp", "entropy", "kl", "reverse_kl")
"""The scores with a gradient that `token_scores` knows."""
COMPARED = ("kl", "reverse_kl")
"""Those of them that compare with the reference model's distribution."""
STATISTICS = ("is_argmax", "rank", "expected_logp", "variance_logp")
"""What `token_scores` tells besides, without a gradient."""
