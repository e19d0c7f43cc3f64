"""What stands between requests and a model that knows tensors only: DJL's translators (DJL §2.10), one module per family."""
