"""A package that adds to unlearner, as somebody else would write it."""
