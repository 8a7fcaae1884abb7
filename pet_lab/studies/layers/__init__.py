"""A party of the primer on secret sharing, a process of its own; see `__main__`."""
