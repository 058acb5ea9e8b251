"""A day of CRM edits, played through the whole house."""
