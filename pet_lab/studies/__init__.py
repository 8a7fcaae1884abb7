"""One study per notebook, of the same name: which data, which settings, how often -> tidy rows.

A study reads like the method section of a paper. It draws nothing, knows no printed number and
holds no algorithm that a second study could want: those are primitives.
"""
