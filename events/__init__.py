"""Events: commands, facts, the log that keeps them and the state folded from them."""
