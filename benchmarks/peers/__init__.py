"""Other servers beside this one, in environments of their own. See __main__.py."""
