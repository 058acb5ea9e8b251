"""What HubSpot's app card asks of us, and what the rep says there.

Law: HubSpot's signature is asked for before anything is said; the signed address alone decides whose data it is.
"""
