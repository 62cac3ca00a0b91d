"""Versions of views: plan, apply, promote, roll back, retire, list and compare them."""
