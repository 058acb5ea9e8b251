"""A mutation fuzzer on what senders' bodies become: `make fuzz` runs the campaign, the suite a short selection of it."""
