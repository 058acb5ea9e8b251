"""How the tables came to be, step by step; each step is written out and never changed once released."""
