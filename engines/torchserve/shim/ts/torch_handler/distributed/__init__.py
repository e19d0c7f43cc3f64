"""Handlers whose model several processes share."""
