"""For handlers whose model several processes share."""
