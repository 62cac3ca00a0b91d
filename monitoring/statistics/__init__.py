"""Statistical tests of drift: effects, chances, and what rows of repeated entities are worth."""
