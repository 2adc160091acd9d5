"""How good pairs and adapters are, as frames."""
