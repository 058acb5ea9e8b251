"""Looking after what webhooks did not tell: a CRM asked, every few minutes, what was changed."""
