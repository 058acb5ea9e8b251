"""Senders that are declared in configuration: how they sign, and what their bodies mean in our words."""
