"""All that knows HTTP: one package per dialect, and what they share."""
