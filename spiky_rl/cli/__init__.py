"""Commands: each parses its arguments, calls the package and prints the outcome.

`spiky VERB` and `scripts/VERB.py` call the module of that verb; `flags` and `common` hold what verbs share.
"""
