"""What is registered: names, versions, what they run on, and the record of it that survives a restart."""
