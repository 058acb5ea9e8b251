"""The gateway as a server: OpenAI's chat-completions protocol in front of the core, without a vendor's library."""
