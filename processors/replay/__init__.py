"""Replaying the past through the analyst: estimated, beside the live insights, or as one of them.

Law: a replay says nothing that the analyst would not say of the same snapshot; a shadow reaches neither a topic nor a CRM.
"""
