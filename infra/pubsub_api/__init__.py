"""Salesforce's Pub/Sub API as its vendor describes it: `pubsub_api.proto` unchanged, and what protoc makes of it.

Law: nothing in here is written by hand but this line and LICENSE; `make pubsub-stubs` makes the rest anew. It lies in `infra` because
both sides of the wire use it: the source role (`ingress/pubsub`) and the sandbox's server.
"""
