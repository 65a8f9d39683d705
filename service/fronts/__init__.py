"""Fronts: thin adapters that carry the RPC methods over one transport each."""
