"""Whom records speak of, who was erased, and how a person is erased everywhere.

Law: knows people as records of a CRM and as the values that they are called by; knows no analysis and no insight. Nothing
that outlives an erasure holds personal data: people stand on lists as HMACs.
"""
