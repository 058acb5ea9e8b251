"""Whether limits hold, and whether they are used: four replicas that ask five times as much as a provider gives."""
