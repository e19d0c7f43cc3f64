"""What runs inside the peers: their handlers and server programs, in environments of their own."""
