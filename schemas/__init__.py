"""What the stages promise one another; changes only by adding."""
