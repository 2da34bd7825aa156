"""What an operator sees and sets: calls under way, limits for each tenant, health, hangs."""
