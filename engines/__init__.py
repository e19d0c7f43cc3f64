"""Engine adapters: how a model file or a Python callable becomes something that predicts, and the worker process around it.

`engines` imports `schemas` and nothing else of flowyard. torch and onnxruntime are imported only when a model is loaded, which
happens only in a worker.
"""
