"""What a machine needs to run Hookline all by itself: the real servers as child processes, and a stand-in CRM.

For laptops, demos and tests; production settings refuse it. Nothing in here is imported by a stage.
"""
