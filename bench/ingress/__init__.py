"""What one request costs at the front door, against the least that it can cost and against the usual way."""
