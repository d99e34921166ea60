"""`unlearner compare`: one's own questions to the model before and the model after, side by side."""
