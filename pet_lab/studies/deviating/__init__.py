"""Parties that misbehave, as processes of their own: what the studies' attempts run."""
