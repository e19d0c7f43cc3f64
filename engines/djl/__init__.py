"""Models as DJL Serving has them: folders with a `serving.properties`, handlers that take an `Input` and give an `Output`."""
