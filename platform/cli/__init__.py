"""The command `flowyard`. Thin: what a command does lives in the package that knows about it."""
