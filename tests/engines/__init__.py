"""Tests of the engines beside PostgreSQL."""
