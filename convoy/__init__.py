"""Convoy's client library: photos in, labels out."""
