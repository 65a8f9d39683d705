"""What carries the calls: a front knows a transport, and nothing of the methods."""
