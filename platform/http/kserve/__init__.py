"""KServe's Open Inference Protocol, version 2, over HTTP: the standard's spellings and DJL's (DJL §1.12)."""
