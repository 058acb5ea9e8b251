"""The one door to a language model; every question is budgeted, cached, validated, accountable."""
