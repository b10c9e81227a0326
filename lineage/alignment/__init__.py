"""From weights in other coordinates to the same coordinates."""
