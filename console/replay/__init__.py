"""Running a replay: what is meant, what it will cost, how far it is, what came of it."""
