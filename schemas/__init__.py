"""The shared vocabulary of flowyard: plain data that every other package may know, and nothing else.

`schemas` imports none of the other three packages. `engines` and `workflows` import `schemas`; `platform` imports all three.
"""
