"""What the modules of this folder agree on."""

IGNORE = -100
"""Label of a position that no loss and no score counts, as in transformers."""
EPSILON = 1e-12
"""Added to a probability inside the mean log-probability, as the official ME loss does (arXiv 2410.08109)."""
DIVERGENCES = ("kl", "reverse_kl", "js")
"""The scores that say how far another model's distribution, the teacher's, is from the model's own."""
COMPARED = (*DIVERGENCES, "distilled")
"""The scores that read the teacher's distribution."""
KINDS = ("logp", "mean_logp", "entropy", "unlikelihood", "spread", *COMPARED)
"""The scores with a gradient that `token_scores` knows."""
FUSED = ("logp", "mean_logp")
"""Those that the Triton kernels compute (kernels.py)."""
STATISTICS = ("is_argmax", "rank", "expected_logp", "variance_logp", "others_ce")
"""What else `token_scores` tells, without a gradient."""
