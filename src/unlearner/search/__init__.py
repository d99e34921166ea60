"""Which setting is the best? `halving` says what is tried next; `subject` searches for one that forgets a name."""
