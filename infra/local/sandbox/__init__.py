"""A stand-in for two CRMs: it speaks HubSpot's and Salesforce's APIs as far as this product uses them.

Law: it binds loopback alone, imports no product code, and invents nothing that a vendor does not do without
saying so in `docs/sandbox.md`. Its journal, on disk before any webhook leaves, is what tests and benchmarks believe.
"""
