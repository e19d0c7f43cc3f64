"""The load generator: closed and open loop over HTTP/1.1, from a process of its own."""
