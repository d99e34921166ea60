"""Attack an unlearned model and say, with bounds, what still leaks."""
