"""Models made for TorchServe and Multi Model Server: archives with a manifest, and handlers that import `ts` or `mms`."""
