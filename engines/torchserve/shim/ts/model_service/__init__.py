"""Services of the kind of MMS 0.x."""
