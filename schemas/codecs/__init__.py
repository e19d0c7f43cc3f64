"""Tensor formats: bodies that are arrays, and answers as arrays. One codec per module; `registry` knows their content types."""
