"""Carry an insight to where people work; a destination decides nothing about routing."""
