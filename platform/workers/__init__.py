"""Worker groups: who computes what, where and when.

`scheduler` decides (pure), `pool` carries out (asyncio), `process` supervises one worker, `channel` moves its frames.
"""
