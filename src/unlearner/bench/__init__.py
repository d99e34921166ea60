"""`unlearner bench`: a scenario of the paper, every method on every split with every seed, resumable at any moment."""
