"""Where CRMs reach us: believe nothing unsigned, keep every byte, answer fast; no dialect leaves this package."""
