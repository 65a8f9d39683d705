"""The clients. Applications import them, and all that they return and raise, from `convoy`."""
