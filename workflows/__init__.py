"""Workflows: from the text of a workflow file to a checked graph, a plan of plain arrays, and the pure state of one run."""
