"""How processes reach the world; knows no deal, contact or insight."""
