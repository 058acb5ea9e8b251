"""The HTTP API: what `hookline` does, for one tenant at a time, by the same functions.

Law: never open. Every operation asks for a key of one tenant with a role, and sees nothing of any other tenant, not even that
it exists. The routes are said once, in `console.api.operations`: what is served and what the OpenAPI document says come from them.
"""
