"""Parts that handlers use."""
