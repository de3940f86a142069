"""What is found out about a user's model before seeds may grow in it: how it runs, where slots may stand, its layers."""
