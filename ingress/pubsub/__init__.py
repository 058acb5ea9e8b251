"""Salesforce's change events, fetched over gRPC: hear every one, publish it untouched, and remember how far Kafka has it.

Law: what comes in here is published before it is understood; a place in the stream is kept only behind Kafka's acknowledgement, and
only by who owns the stream. What the bus no longer has is read from the CRM itself.
"""
