"""Questions that can wait, in the provider's batches at half the price: who waits, what is sent, what comes back."""
