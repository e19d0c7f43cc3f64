"""The registry as files: what is wanted, what is there, and what has to be done about the difference."""
