"""The promises of the pipeline, kept under faults: `make faults`; what each module does is said in `docs/guarantees.md`."""
