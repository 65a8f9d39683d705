"""What runs inside the peers' environments: nothing of Convoy can be imported there."""
