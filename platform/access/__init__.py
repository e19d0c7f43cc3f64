"""Who may do what: tokens and where they are kept."""
